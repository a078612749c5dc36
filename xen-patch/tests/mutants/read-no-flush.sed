# cda_entry_read() flushes
s/(withhold\(d, l1mfn, &pl1e\[i\]\);\n)        flush_tlb_mask\(d->dirty_cpumask\);/\1/
