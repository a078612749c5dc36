# the list ends with the log
s/if \( r->count \+ n < r->log_entries \)/if ( 1 )/
