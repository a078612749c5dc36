# cda_entry_read() withholds the neighbours as well
s/        for \( i = 0; i < CHUNK_PAGES; \+\+i \)\n            withhold\(d, l1mfn, &pl1e\[i\]\);/        (void)i; (void)withhold;/
