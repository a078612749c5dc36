# logs of stores are limited
s/ &&\n         cda->used_word_logs \+ words <= MAX_WORD_LOGS/ /
