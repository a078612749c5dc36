# an unwritable log of stores loses the list
s/nr \* sizeof\(\*from\)\) \)\n        r->lost = true;/nr * sizeof(*from)) )\n        (void)0;/
