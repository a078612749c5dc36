# the fault handler checks the binding under page_lock()
s/         likely\(mfn_eq\(c->l1, l1\)\) &&\n         !\(s->forward/         !(s->forward/
