# cda_guest_update() marks the chunk
s/            set_bit\(__builtin_ctzl\(WANT_TOUCHED\), want_of\(c\)\);/            (void)0;/
