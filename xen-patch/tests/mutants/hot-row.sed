# only dirty cycles in a row make a page hot
s/h->pass\[slot\] == \(uint8_t\)\(r->pass - 1\)\n/1\n/
