# stores end with the log
s/    if \( nr > room \)/    if ( 0 )/
