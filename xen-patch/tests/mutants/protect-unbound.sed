# protect_entry() trusts CDA_L1E_RO in a table that was bound before only
s/if \( bound && \(old & CDA_L1E_RO\) \)/if ( old \& CDA_L1E_RO )/
