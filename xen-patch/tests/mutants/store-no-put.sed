# cda_do_store() drops its type reference
s/    unmap_table\(to\);\n    put_writable\(pg\);/    unmap_table(to);/
