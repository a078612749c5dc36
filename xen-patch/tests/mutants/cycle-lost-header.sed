# an unwritable log header loses the list
s/(sizeof\(h\)\) \)\n        \{\n)            r->lost = true;/\1            (void)0;/
