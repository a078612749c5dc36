# sync_watched() reports only what was written
s/        else if \( l1e & _PAGE_DIRTY \)\n            written/        else if ( 1 )\n            written/
