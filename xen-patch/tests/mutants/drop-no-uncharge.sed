# unregister returns the quota
s/    s->pages -= r->pages;\n//
