# cda_do_store() takes a type reference
s/    if \( !get_writable\(pg\) \)\n        goto out;//
s/    unmap_table\(to\);\n    put_writable\(pg\);/    unmap_table(to);/
