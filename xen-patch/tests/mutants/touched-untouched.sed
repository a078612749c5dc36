# sync_touched() looks again at chunks with unknown pages
s/if \( what & DO_PROTECT \)\n        r->want\[n\] = l2e \| \(unknown \? WANT_TOUCHED : 0\);/if ( what \& DO_PROTECT )\n        r->want[n] = l2e;/
