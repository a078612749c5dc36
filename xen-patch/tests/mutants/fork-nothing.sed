# what a fork may share is taken back
s/if \( heir && !may_share\(d, heir, c\) \)/if ( heir )/
