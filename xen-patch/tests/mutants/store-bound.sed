# cda_do_store() checks the binding under page_lock()
s/!\(l1e & _PAGE_PRESENT\) \|\| !mfn_eq\(c->l1, l1\) \|\| s->forward \|\|/!(l1e \& _PAGE_PRESENT) || s->forward ||/
