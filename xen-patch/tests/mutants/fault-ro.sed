# the fault handler needs CDA_L1E_RO
s/\(l1e & \(_PAGE_PRESENT \| _PAGE_RW \| CDA_L1E_RO\)\) ==\n                \(_PAGE_PRESENT \| CDA_L1E_RO\)/(l1e \& (_PAGE_PRESENT | _PAGE_RW)) ==\n                _PAGE_PRESENT/
