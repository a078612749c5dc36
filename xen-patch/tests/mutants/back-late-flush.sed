# take_back() flushes when it is interrupted
s/(Nobody may come back for the rest\. \*\/\n)                if \( took \)\n                    cda_flush\(s, d\);/\1/
