# attach tells the cookie when all else is told
s/    a\.max_pages = s->max_pages;/    a.max_pages = s->max_pages;\n    a.cookie = s->cookie;/
