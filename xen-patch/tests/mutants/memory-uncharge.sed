# memory that is free is given back to the quota
s/    atomic_sub\(kib, &s->cda->kib\);\n//
