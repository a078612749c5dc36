# domain numbers do not wrap
s/u.h.domid == \(domid_t\)u.h.domid\n +\? u.h.domid : DOMID_INVALID/u.h.domid/
