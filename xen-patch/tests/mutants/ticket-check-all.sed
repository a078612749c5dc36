# a ticket must be the one given out (all ranges)
s/if \( resume && \(s->all_op != op \|\| s->all_ticket != \*ticket\) \)/if ( 0 )/
