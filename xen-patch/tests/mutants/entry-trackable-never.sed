# trackable(): grant mark
s/\(CDA_L1E_NEVER \| L1E_GUEST_KERNEL \| _PAGE_USER\)/(L1E_GUEST_KERNEL | _PAGE_USER)/
