# the fault handler needs CDA_L1E_RO
s/likely\(\(l1e & \(_PAGE_PRESENT \| CDA_L1E_RO\)\) ==\n                \(_PAGE_PRESENT \| CDA_L1E_RO\)\)/likely(l1e \& _PAGE_PRESENT) \&\& !(l1e \& _PAGE_RW)/
