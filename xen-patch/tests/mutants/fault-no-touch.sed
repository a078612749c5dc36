# the fault handler marks the chunk
s/set_bit\(__builtin_ctzl\(WANT_TOUCHED\), &r->want\[c - r->chunk\]\);/(void)0;/
