# attach tells the cookie
s/ \|\|\n         put_guest\(s->cookie, \(uint64_t __user \*\)\n *\(uarg \+ offsetof\(struct cda_attach, cookie\)\)\)//
