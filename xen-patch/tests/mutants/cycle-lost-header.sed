# an unwritable log header loses the list
s/(put_word\(r->log, h\.epoch\)[^\n]*\n    \{\n)        r->lost = true;/\1        (void)0;/
