# protect_entry() drops the type reference
s/        return WATCHED;\n    put_writable\(pg\);\n/        return WATCHED;\n/
