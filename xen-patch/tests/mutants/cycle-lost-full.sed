# a full log is marked lost
s/r->lost \|\| r->found != r->count \?/r->lost ?/
