# an interrupted operation that is replaced loses its list
s/    if \( r->cont \)\n        r->lost = true;/    (void)0;/
