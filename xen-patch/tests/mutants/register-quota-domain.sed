# pages of a domain are limited
s/ &&\n         reg.pages <= cda->max_pages - cda->used_pages \)/ )/
