# protect_entry() ends watching when it protects
s/~\(_PAGE_RW \| CDA_L1E_SEEN \| CDA_L1E_WATCH\)\) \|\n *CDA_L1E_RO/~(_PAGE_RW | CDA_L1E_SEEN)) |\n                  CDA_L1E_RO/
