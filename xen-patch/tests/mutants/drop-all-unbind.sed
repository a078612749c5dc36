# detach and revocation unbind
s/            cda_unbind\(cda, chunk_at\(tab->r\[i\], j\)\);/            (void)0;/
