# pages of a session are limited
s/if \( reg.pages <= s->max_pages - s->pages &&/if (/
