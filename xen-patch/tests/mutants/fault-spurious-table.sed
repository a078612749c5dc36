# a writable entry of another table is forwarded
s/fixed = l2e_leads\(l2e\) && mfn_eq\(l2e_mfn\(l2e\), l1\);/fixed = l2e_leads(l2e);/
