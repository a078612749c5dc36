# take_back_entry() drops the type reference
s/        put_writable\(pg\);\n\n    return \(old & CDA_L1E_WATCH\)/        (void)0;\n\n    return (old \& CDA_L1E_WATCH)/
