# a table has one chunk that relies on its slots
s/    evict\(cda, d, c, pl1e, l2e_mfn\(l2e\)\);\n//
