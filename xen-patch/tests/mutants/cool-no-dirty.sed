# cda_cool() gives D back
s/CDA_L1E_WATCH\)\) \| CDA_L1E_RO \|\n                        _PAGE_DIRTY;\n\n    if/CDA_L1E_WATCH)) | CDA_L1E_RO;\n\n    if/
