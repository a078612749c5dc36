# two dirty cycles make a page hot
s/    if \( h->streak\[slot\] < HOT_AFTER \)/    if ( 1 )/
