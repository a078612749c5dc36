# cda_do_store() leaves room for all of its parts
s/    if \( words->nr \+ 4 <= MAX_WORDS \)/    if ( words->nr < MAX_WORDS )/
