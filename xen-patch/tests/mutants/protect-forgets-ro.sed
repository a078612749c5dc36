# protect_entry() keeps what was withheld within the cycle
s/bound && \(old & \(_PAGE_RW \| CDA_L1E_RO\)\) == CDA_L1E_RO/0/
