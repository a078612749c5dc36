# cda_guest_update() marks the page
s/            set_bit\(slot, c->dirty\);\n            set_bit\(__builtin_ctzl\(WANT_TOUCHED\), c->want\);/            set_bit(__builtin_ctzl(WANT_TOUCHED), c->want);/
