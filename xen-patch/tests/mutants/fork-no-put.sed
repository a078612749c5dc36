# the tables of a new root are let go
s/    unmap_domain_page\(table\);\n    put_page\(held\);/    unmap_domain_page(table);/
