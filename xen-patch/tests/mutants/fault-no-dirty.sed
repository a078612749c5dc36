# the fault handler marks the page
s/        set_bit\(slot, c->dirty\);\n        set_bit\(__builtin_ctzl\(WANT_TOUCHED\), want_at/        set_bit(__builtin_ctzl(WANT_TOUCHED), want_at/
