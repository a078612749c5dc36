# cda_do_store() writes where the address leads now
s/    if \( !l2e_leads\(l2e\) \|\| !mfn_eq\(l2e_mfn\(l2e\), l1\) \)\n        goto out;/    if ( !l2e_leads(l2e) )\n        goto out;/
