# put_writable() leaves the last reference to put_page_type()
s/likely\(\(x & PGT_count_mask\) > 1\)/likely((x \& PGT_count_mask) > 0)/
