# a writable entry behind a read-only L2 entry is forwarded
s/    if \( !l2e_leads\(l2e\) \|\| !mfn_eq\(l2e_mfn\(l2e\), l1\) \)\n        return false;\n    COUNT/    if ( !mfn_eq(l2e_mfn(l2e), l1) )\n        return false;\n    COUNT/
