# cda_cool() notes that Xen withholds RW
s/CDA_L1E_WATCH\)\) \| CDA_L1E_RO \|\n                        _PAGE_DIRTY;\n\n    if/CDA_L1E_WATCH)) | CDA_L1E_SEEN |\n                        _PAGE_DIRTY;\n\n    if/
