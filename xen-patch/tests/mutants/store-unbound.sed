# cda_do_store() looks whether the chunk is bound
s/         mfn_eq\(l1, INVALID_MFN\) \|\| \(pl1e = lock_l1\(d, l1\)\) == NULL \)\n        return CDA/         (pl1e = lock_l1(d, l1)) == NULL )\n        return CDA/
