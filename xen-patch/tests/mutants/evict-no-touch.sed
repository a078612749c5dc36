# cda_evict() makes the loser walk anew
s/        ACCESS_ONCE\(\*want_of\(o\)\) = WANT_TOUCHED;\n    \}/    }/
