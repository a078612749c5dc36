# an unwritable log of stores loses the list
s/part \* sizeof\(\*\*from\)\) \)\n            r->lost = true;/part * sizeof(**from)) )\n            (void)0;/
