# take_back() flushes when it is interrupted
s/(Nobody may come back for the rest\. \*\/\n)                if \( took \)\n                    flush\(s, d\);/\1/
