# an address space with nothing of this one is not a fork
s/if \( l4 && !may_share\(d, l4, c, at\) \)/if ( 0 )/
