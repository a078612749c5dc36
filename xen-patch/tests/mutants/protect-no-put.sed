# protect_entry() drops the type reference
s/(    if \( old & _PAGE_RW \)\n)        put_writable\(pg\);\n\n    return PROTECTED/\1        (void)0;\n\n    return PROTECTED/
