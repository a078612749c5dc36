# pages of a domain are limited
s/           cda->used_pages <= cda->max_pages &&\n           pages <= cda->max_pages - cda->used_pages &&\n//
