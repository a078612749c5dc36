# take_back_entry() asks trackable()
s/                 !\(pg = trackable\(d, old\)\) \)\n                return false;/                 !(pg = mfn_to_page(l2e_mfn(old))) )\n                return false;/
