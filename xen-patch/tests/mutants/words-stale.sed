# begin forgets stores before the cycle
s/            r->words->nr = 0;\n            spin_unlock/            spin_unlock/
