# take_back_chunk() looks again under page_lock()
s/if \( mfn_eq\(c->l1, l1\) \)\n    \{\n        take_back_slots/if ( 1 )\n    {\n        take_back_slots/
