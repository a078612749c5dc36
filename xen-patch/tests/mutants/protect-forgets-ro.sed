# protect_entry() keeps what was withheld within the cycle
s/if \( bound && \(old & CDA_L1E_RO\) \)/if ( 0 )/
