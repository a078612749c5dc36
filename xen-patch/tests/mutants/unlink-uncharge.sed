# the end of a session returns the quota
s/    cda->used_pages -= s->pages;\n    for/    for/
