# the end of a session returns logs of stores
s/        cda->used_word_logs -= !!s->ranges->r\[i\]->words;\n//
