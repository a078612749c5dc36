# an unfinished detach leaves chunks to be walked anew
s/            if \( !mark \)\n                ACCESS_ONCE\(r->want\[j\]\) = WANT_TOUCHED;//
