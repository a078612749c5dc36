# memory of ranges has a quota
s/           atomic_read\(&cda->kib\) \+ \(unsigned long\)kib <= max_kib\(cda\);/           1;/
