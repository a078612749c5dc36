# a cmpxchg that fails is not logged
s/        if \( rc == CDA_STORED \)\n            log_words/        if ( 1 )\n            log_words/
