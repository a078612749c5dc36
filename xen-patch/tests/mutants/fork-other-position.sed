# an address space goes on where it was itself, not another
s/if \( s->fork\[i\].for_what == heir \)/if ( s->fork[i].for_what )/
