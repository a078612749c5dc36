# trackable(): guest kernel pages
s/\(CDA_L1E_NEVER \| L1E_GUEST_KERNEL \| _PAGE_USER\)/(CDA_L1E_NEVER | _PAGE_USER)/
