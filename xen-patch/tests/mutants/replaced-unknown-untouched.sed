# sync_replaced() looks again at chunks with unknown pages
s/r->want\[n\] = l2e \| \(unknown \? WANT_TOUCHED : 0\);\n    (unlock_l1\(pl1e, l2e_mfn\(l2e\)\);\n\n    return true)/r->want[n] = l2e;\n    \1/
