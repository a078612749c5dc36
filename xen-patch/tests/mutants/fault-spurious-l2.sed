# a writable entry behind a read-only L2 entry is forwarded
s/fixed = l2e_leads\(l2e\) && mfn_eq\(l2e_mfn\(l2e\), l1\);/(void)l2e, fixed = true;/
