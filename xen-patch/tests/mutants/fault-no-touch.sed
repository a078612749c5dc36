# the fault handler marks the chunk
s/        set_bit\(__builtin_ctzl\(WANT_TOUCHED\), &r->want\[n\]\);/        (void)0;/
