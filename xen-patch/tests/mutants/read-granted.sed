# cda_entry_read() looks at CDA_L1E_RO too
s/(is_granted[^}]*)\(l1e \& \(CDA_L1E_RO \| CDA_L1E_WATCH\)\)/\1(l1e \& CDA_L1E_WATCH)/
