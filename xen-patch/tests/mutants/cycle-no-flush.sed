# do_cycle() flushes TLBs
s/    if \( changed \)\n        cda_flush\(s, d\);/    (void)changed;/
