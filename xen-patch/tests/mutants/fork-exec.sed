# an address space with nothing of this one is not a fork
s/if \( heir && !may_share\(d, heir, c\) \)/if ( 0 )/
