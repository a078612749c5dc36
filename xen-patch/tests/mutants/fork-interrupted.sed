# flushed before an interruption
s/                if \( took \)\n                    cda_flush\(s, d\);\n                return false;/                return false;/
