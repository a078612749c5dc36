# cda_do_store() stops when the log is full
s/    if \( words->nr \+ 4 <= MAX_WORDS \)/    if ( 1 )/
