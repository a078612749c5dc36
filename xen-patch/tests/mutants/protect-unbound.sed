# protect_entry() trusts CDA_L1E_RO in a table that was bound before only
s/bound && \(old & \(_PAGE_RW/(old \& (_PAGE_RW/
