# protect_entry() does not trust CDA_L1E_RO it finds
s/new = \(old & ~\(CDA_L1E_RO \| CDA_L1E_WATCH\)\) \| CDA_L1E_SEEN;/new = old \& CDA_L1E_RO ? old : old | CDA_L1E_SEEN;/
