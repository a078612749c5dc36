# a failed register returns its log of stores
s/    cda->used_word_logs -= words;\n//
