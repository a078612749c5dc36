# the fault handler does not grant what is writable
s/\(l1e & \(_PAGE_PRESENT \| _PAGE_RW \| CDA_L1E_RO\)\) ==\n                \(_PAGE_PRESENT \| CDA_L1E_RO\)/(l1e \& (_PAGE_PRESENT | CDA_L1E_RO)) ==\n                (_PAGE_PRESENT | CDA_L1E_RO)/
