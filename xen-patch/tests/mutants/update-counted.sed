# guest updates are counted
s/            COUNT\(c->range->session, guest_updates\);\n//
