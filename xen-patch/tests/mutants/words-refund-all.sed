# detach and revocation return logs of stores
s/    for \( i = 0; i < tab->nr; \+\+i \)\n        cda->used_word_logs -= !!tab->r\[i\]->words;\n//
