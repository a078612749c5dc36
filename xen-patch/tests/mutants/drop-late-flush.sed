# drop_range() flushes when it is interrupted
s/(r->cursor = i \+ 1;\n)            cda_flush\(s, d\);\n/\1/
