# do_cycle() flushes TLBs
s/    if \( w\.changed \)\n        cda_flush\(s, d\);/    (void)s;/
