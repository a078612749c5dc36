# regrant() removes CDA_L1E_RO
s/\(old & ~CDA_L1E_RO\) \| _PAGE_RW \|/old | _PAGE_RW |/
