# cda_evict() makes the loser walk anew
s/        ACCESS_ONCE\(\*o->want\) = WANT_TOUCHED;\n    \}/    }/
