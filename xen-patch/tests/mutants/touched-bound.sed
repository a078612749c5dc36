# sync_touched() checks the binding under page_lock()
s/\|\| unlikely\(!mfn_eq\(c->l1, l2e_mfn\(l2e\)\)\) \)/)/
