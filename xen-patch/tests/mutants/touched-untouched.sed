# sync_touched() looks again at chunks with unknown pages
s/        look_again \|= keep;\n//
