# get_writable() leaves the first reference to get_page_type()
s/         likely\(x & PGT_count_mask\) && likely\(\(x \+ 1\)/         likely((x + 1)/
