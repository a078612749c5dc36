# an unfinished detach leaves chunks to be walked anew
s/            if \( !mark \)\n                ACCESS_ONCE\(\*want_at\(r, j\)\) = WANT_TOUCHED;//
