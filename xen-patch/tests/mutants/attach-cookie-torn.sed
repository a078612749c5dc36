# attach tells all of the cookie or nothing
s/put_guest\(s->cookie, \(uint64_t __user \*\)\n *\(uarg \+ offsetof\(struct cda_attach, cookie\)\)\)/copy_to_guest_pv((void *)(uarg + 24), \&s->cookie, 8)/
