# a writable entry of another table is forwarded
s/    if \( !l2e_leads\(l2e\) \|\| !mfn_eq\(l2e_mfn\(l2e\), l1\) \)\n        return false;\n    COUNT/    if ( !l2e_leads(l2e) )\n        return false;\n    COUNT/
