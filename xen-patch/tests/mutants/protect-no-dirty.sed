# protect_entry() sets D
s/\| CDA_L1E_RO \| _PAGE_DIRTY/| CDA_L1E_RO/
