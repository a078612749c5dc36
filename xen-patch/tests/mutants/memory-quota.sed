# memory of ranges has a quota
s/         atomic_read\(&cda->kib\) \+ kib <= max_kib\(cda\) \)/         1 )/
