# cda_cool() withholds RW
s/\(old & ~\(_PAGE_RW \| CDA_L1E_WATCH\)\) \| CDA_L1E_RO \|\n                        _PAGE/(old \& ~(0UL | CDA_L1E_WATCH)) | CDA_L1E_RO |\n                        _PAGE/
