# take_back_entry() reports only watched pages which were written
s/    return \(old & CDA_L1E_WATCH\) && \(old & _PAGE_DIRTY\);/    return old \& CDA_L1E_WATCH;/
