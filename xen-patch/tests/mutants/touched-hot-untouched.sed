# sync_touched() looks again at chunks with watched pages
s/        if \( h \)\n            look_again \|= h->hot\[w\];\n//
