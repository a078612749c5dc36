# store() stops when the log is full
s/    if \( words->nr \+ 2 \+ bytes \/ 8 <= MAX_WORDS \)/    if ( 1 )/
