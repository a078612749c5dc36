# what a fork may share is taken back
s/if \( l4 && !may_share\(d, l4, c, at\) \)/if ( l4 )/
