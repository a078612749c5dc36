# protect_entry() marks a watched page
s/_PAGE_DIRTY\)\) \|\n *CDA_L1E_WATCH;/_PAGE_DIRTY));/
