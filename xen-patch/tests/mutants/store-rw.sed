# cda_do_store() does not log what is a page entry already
s/    if \( \(l1e & \(_PAGE_RW \| CDA_L1E_RO\)\) != CDA_L1E_RO \)\n        goto out;/    if ( !(l1e \& CDA_L1E_RO) )\n        goto out;/
