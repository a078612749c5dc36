# cda_cool() drops the type reference
s/    put_writable\(mfn_to_page\(l2e_mfn\(old\)\)\);\n/    (void)0;\n/
