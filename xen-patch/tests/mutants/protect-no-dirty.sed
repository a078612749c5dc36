# protect_entry() sets D
s/~\(_PAGE_RW \| CDA_L1E_SEEN \| CDA_L1E_WATCH\)\) \|\n *CDA_L1E_RO \| _PAGE_DIRTY;/~(_PAGE_RW | CDA_L1E_SEEN | CDA_L1E_WATCH)) |\n                  CDA_L1E_RO;/
