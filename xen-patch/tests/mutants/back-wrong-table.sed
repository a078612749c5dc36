# take_back_chunk() looks again under page_lock()
s/if \( mfn_eq\(c->l1, l1\) \)\n        take_back_slots/take_back_slots/
