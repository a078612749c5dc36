# a table has one chunk that relies on its slots
s/    cda_evict\(cda, d, c, pl1e, l2e_mfn\(l2e\)\);\n//
