# protect_entry() leaves a watched page its type reference
s/    if \( watch \)\n        return WATCHED;\n    put_writable/    put_writable/
