# flushed before an interruption
s/                if \( took \)\n                    flush\(s, d\);\n                return false;/                return false;/
