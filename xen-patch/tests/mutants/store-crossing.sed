# cda_do_store() does not cross pages
s/         \(\(va \+ bytes - 1\) & PAGE_MASK\) != store->page \|\|\n//
