# take_back_entry() reports what D alone knew
s/    return \(old & CDA_L1E_WATCH\) && \(old & _PAGE_DIRTY\);/    return false;/
