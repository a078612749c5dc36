# take_back_entry() drops the type reference
s/(    if \( old & _PAGE_RW \)\n)        put_writable\(pg\);\n\}/\1        (void)0;\n}/
