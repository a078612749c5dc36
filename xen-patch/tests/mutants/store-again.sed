# cda_do_store() leaves a writable page to the guest
s/    if \( l1e & _PAGE_RW \)\n        rc = CDA_AGAIN;\n//
