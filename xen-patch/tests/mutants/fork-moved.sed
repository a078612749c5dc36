# a table which was moved is shared from where it is
s/if \( !l2e_leads\(l2e\) \|\| !mfn_eq\(l2e_mfn\(l2e\), c->l1\) \)\n        return true;/(void)l2e;/
