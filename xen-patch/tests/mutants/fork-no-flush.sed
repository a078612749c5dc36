# take_back() flushes TLBs
s/if \( n \)\n        flush\(s, d\);/(void)n;/
