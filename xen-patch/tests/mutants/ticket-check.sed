# a ticket must be the one given out (one range)
s/if \( resume && \(r->cont != op \|\| r->ticket != \*ticket\) \)/if ( 0 )/
