# sync_replaced() takes back before it unbinds
s/    take_back_chunk\(d, c, 0\);\n    cda_unbind\(cda, c\);/    { mfn_t o = cda_unbind(cda, c); l1_pgentry_t *q; if ( flushed \&\& (q = lock_l1(d, o)) ) { take_back_slots(d, c, q, 0); unlock_l1(q, o); } }/
