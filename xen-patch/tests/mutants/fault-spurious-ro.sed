# only a writable entry makes a fault spurious
s/    if \( \(l1e & \(_PAGE_PRESENT \| _PAGE_RW\)\) != \(_PAGE_PRESENT \| _PAGE_RW\) \)\n        return false;\n\n//
