# one dirty cycle does not make a page hot
s/    if \( h->streak\[slot\] < HOT_AFTER \)\n        return false;\n//
