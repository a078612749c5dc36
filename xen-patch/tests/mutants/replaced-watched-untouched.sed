# sync_replaced() looks again at chunks with watched pages
s/\(unknown \|\| watched \? WANT_TOUCHED : 0\)/(unknown ? WANT_TOUCHED : 0)/
