# drop_range() flushes before it may fail
s/(keeps new CDA_L1E_RO from appearing\. \*\/\n)    cda_flush\(s, d\);\n/\1/
