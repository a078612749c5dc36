# cda_entry_read() looks at CDA_L1E_WATCH too
s/unlikely\(l1e \& \(CDA_L1E_RO \| CDA_L1E_WATCH\)\) \)/unlikely(l1e \& CDA_L1E_RO) )/
