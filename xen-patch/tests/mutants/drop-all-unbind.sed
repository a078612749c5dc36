# detach and revocation unbind
s/            unbind\(cda, chunk_at\(tab->r\[i\], j\)\);/            (void)0;/
