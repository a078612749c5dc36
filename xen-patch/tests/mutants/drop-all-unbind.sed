# detach and revocation unbind
s/            unbind\(cda, &tab->r\[i\]->chunk\[j\]\);/            (void)0;/
