# take_back_entry() leaves no bit of ours
s/new = \(old & ~\(_PAGE_RW \| CDA_L1E_TRACKED\)\) \| mark/new = (old \& ~(unsigned long)_PAGE_RW) | mark/
