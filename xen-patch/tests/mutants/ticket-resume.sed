# only the holder of the ticket continues
s/if \( !resume \|\| r->cont != op \)/if ( r->cont != op )/
