# attach tells all of the cookie or nothing
s/put_word\(uarg \+ offsetof\(struct cda_attach, cookie\), s->cookie\)/copy_to_guest_pv((void *)(uarg + 24), \&s->cookie, 8)/
