# sync_watched() trusts bits of present entries only
s/\(l1e & WATCHED_ENTRY\) != WATCHED_ENTRY/!(l1e \& CDA_L1E_WATCH)/
