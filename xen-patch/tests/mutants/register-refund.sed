# a failed register returns the quota
s/    cda->used_pages -= reg\.pages;\n    cda->used_word_logs -= words;\n    s->pages -= reg\.pages;/    cda->used_word_logs -= words;/
