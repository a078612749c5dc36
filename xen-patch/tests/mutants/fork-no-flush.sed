# take_back() flushes TLBs
s/if \( took \)\n        cda_flush\(s, d\);/(void)took;/
