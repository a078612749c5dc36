# cda_guest_update() marks the chunk
s/            set_bit\(__builtin_ctzl\(WANT_TOUCHED\), c->want\);/            (void)0;/
