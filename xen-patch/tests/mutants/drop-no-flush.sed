# drop_range() flushes before it may fail
s/(keeps new authority from appearing\. \*\/\n)    cda_flush\(s, d\);\n/\1/
