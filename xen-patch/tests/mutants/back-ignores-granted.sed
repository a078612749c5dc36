# take_back_entry() only takes RW that Xen granted
s/!granted \|\| !\(pg/!(pg/
