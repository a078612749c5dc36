# sync_watched() leaves alone what the guest rewrote
s/if \( unlikely\(\(l1e & WATCHED_ENTRY\) != WATCHED_ENTRY\) \)/if ( 0 )/
