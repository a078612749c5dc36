# only the slots of the range count
s/for \( i = c->lo; i < c->hi && !found; \+\+i \)/for ( i = 0; i < CHUNK_PAGES \&\& !found; ++i )/
