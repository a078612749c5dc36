# sync_replaced() binds before it protects
s/(    cda_bind\(cda, c, l2e_mfn\(l2e\)\);\n)(.*)(    COUNT_N\(s, write_protected, c->hi - c->lo\);)/\2\1\3/
