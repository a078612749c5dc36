# logs of stores are limited
s/           cda->used_word_logs \+ words <= MAX_WORD_LOGS &&\n//
