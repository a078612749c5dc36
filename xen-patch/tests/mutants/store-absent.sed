# cda_do_store() needs a present entry
s/    if \( !\(l1e & _PAGE_PRESENT\) \|\| !mfn_eq\(c->l1, l1\) \|\| s->forward \|\|/    if ( !mfn_eq(c->l1, l1) || s->forward ||/
