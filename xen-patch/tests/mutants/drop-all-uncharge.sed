# detach and revocation return the quota
s/    cda->used_pages -= s->pages;\n    for \( i = 0; i < tab->nr; \+\+i \)/    for ( i = 0; i < tab->nr; ++i )/
