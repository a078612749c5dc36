# cda_do_store() needs a writable way to the table
s/    if \( !l2e_leads\(l2e\) \|\| !mfn_eq\(l2e_mfn\(l2e\), l1\) \)\n        goto out;/    if ( !mfn_eq(l2e_mfn(l2e), l1) )\n        goto out;/
