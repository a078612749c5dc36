# base 5 without SIB is the instruction pointer
s/else if \( rm == 5 && !mod \)/else if ( 0 )/
