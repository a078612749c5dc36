# pages of a session are limited
s/fits = pages <= s->max_pages - s->pages &&/fits =/
