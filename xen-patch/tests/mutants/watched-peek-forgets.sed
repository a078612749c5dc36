# peek does not change what is watched
s/            if \( protect \)\n                __clear_bit\(b, &h->hot\[w\]\);/            __clear_bit(b, \&h->hot[w]);/
