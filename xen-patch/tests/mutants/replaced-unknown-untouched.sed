# sync_replaced() looks again at chunks with unknown pages
s/\(unknown \|\| watched \? WANT_TOUCHED : 0\)/(watched ? WANT_TOUCHED : 0)/
