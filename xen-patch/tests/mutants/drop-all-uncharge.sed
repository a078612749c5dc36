# detach and revocation return the quota
s/    cda->used_pages -= s->pages;\n    s->pages = 0;/    s->pages = 0;/
