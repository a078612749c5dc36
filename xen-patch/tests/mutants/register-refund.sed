# a failed register returns the quota
s/(xvfree\(grown\);\n    spin_lock\(&cda->lock\);\n)    cda->used_pages -= reg.pages;\n    s->pages -= reg.pages;/\1/
