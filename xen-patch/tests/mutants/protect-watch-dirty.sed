# protect_entry() clears D of a watched page
s/~\(CDA_L1E_RO \| CDA_L1E_SEEN \| _PAGE_DIRTY\)/~(CDA_L1E_RO | CDA_L1E_SEEN)/
