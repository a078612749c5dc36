# regrant() leaves CDA_L1E_RO, which says whose RW it is
s/cmpxchg\(p, old, old \| _PAGE_RW \| _PAGE_ACCESSED \|/cmpxchg(p, old, (old \& ~CDA_L1E_RO) | _PAGE_RW | _PAGE_ACCESSED |/
