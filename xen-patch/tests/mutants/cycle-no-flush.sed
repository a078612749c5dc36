# do_cycle() flushes TLBs
s/    if \( changed \)\n        flush\(s, d\);/    (void)changed;/
