# the fault handler needs a present entry
s/\(l1e & \(_PAGE_PRESENT \| _PAGE_RW \| CDA_L1E_RO\)\) ==\n                \(_PAGE_PRESENT \| CDA_L1E_RO\)/(l1e \& (_PAGE_RW | CDA_L1E_RO)) ==\n                CDA_L1E_RO/
