# cda_cool() ends watching
s/\(old & ~\(_PAGE_RW \| CDA_L1E_WATCH\)\) \| CDA_L1E_RO \|\n                        _PAGE/(old \& ~(unsigned long)_PAGE_RW) | CDA_L1E_RO |\n                        _PAGE/
