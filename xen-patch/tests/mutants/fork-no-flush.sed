# take_back() flushes TLBs
s/if \( took \)\n        flush\(s, d\);/(void)took;/
