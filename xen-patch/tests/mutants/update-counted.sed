# guest updates are counted
s/            if \( guest \)\n                COUNT\(c->range->session, guest_updates\);\n//
