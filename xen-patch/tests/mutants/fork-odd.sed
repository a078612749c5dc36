# when in doubt it is a fork
s/\|\| !get_page\(pg, d\) \)\n            return true;/|| !get_page(pg, d) )\n            return false;/
