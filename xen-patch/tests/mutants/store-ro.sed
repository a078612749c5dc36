# cda_do_store() needs CDA_L1E_RO
s/    if \( \(l1e & \(_PAGE_RW \| CDA_L1E_RO\)\) != CDA_L1E_RO \)\n        goto out;/    if ( l1e \& _PAGE_RW )\n        goto out;/
