# cda_do_store() obeys CDA_LIMIT_FORWARD
s/!mfn_eq\(c->l1, l1\) \|\| s->forward \|\|/!mfn_eq(c->l1, l1) ||/
