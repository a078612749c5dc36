# an unwritable log header loses the list
s/(put_guest\(h\.epoch, [^\n]*\n        \{\n)            r->lost = true;/\1            (void)0;/
