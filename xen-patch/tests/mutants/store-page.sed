# cda_do_store() only writes to the page that faulted
s/\(va & PAGE_MASK\) != store->page \|\|\n         \(\(va \+ bytes - 1\) & PAGE_MASK\) != store->page \|\|/((va + bytes - 1) \& PAGE_MASK) != (va \& PAGE_MASK) ||/
