# unregister returns its log of stores
s/    cda->used_word_logs -= !!r->words;\n//
