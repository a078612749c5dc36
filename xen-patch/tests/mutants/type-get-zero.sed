# get_writable() leaves the first reference to get_page_type()
s/(== WRITABLE\) &&\n         likely\(\(\(x \+ 1\) & PGT_count_mask\) > )1\)/\10)/
