# lock_l1() wants an L1 table
s/likely\(\(pg->u.inuse.type_info & PGT_type_mask\) ==\n                    PGT_l1_page_table\)/true/
