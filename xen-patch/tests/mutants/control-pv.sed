# control is for 64-bit PV domains
s/if \( !track_possible\(d\) \)/if ( 0 )/
