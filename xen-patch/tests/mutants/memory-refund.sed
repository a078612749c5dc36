# no memory, no charge
s/    xfree\(grown\);\n    atomic_sub\(kib, &cda->kib\);/    xfree(grown);/
