# an unwritable log loses the list
s/n \* sizeof\(\*buf\)\) \)\n        r->lost = true;/n * sizeof(*buf)) )\n        (void)0;/
