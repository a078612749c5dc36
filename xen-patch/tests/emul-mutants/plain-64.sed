# REX.W means eight bytes
s/if \( rex & REX_W \)/if ( 0 )/
