# the fault handler marks the chunk
s/        set_bit\(__builtin_ctzl\(WANT_TOUCHED\), want_at\(r, n\)\);/        (void)0;/
