# a full log is marked lost
s/\.flags = r->lost \|\| r->full \?/.flags = r->lost ?/
s/else if \( h\.flags \)/else if ( 0 )/
