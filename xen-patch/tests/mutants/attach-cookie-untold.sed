# attach tells the cookie
s/ \|\|\n         put_word\(uarg \+ offsetof\(struct cda_attach, cookie\), s->cookie\)//
