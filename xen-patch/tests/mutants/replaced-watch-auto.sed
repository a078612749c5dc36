# Autoxen protects at first
s/protect_entry\(d, &pl1e\[i\], r->mode == CDA_MODE_SCANXEN,/protect_entry(d, \&pl1e[i], !!c->heat,/
