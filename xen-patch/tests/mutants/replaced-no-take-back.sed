# sync_replaced() takes back from the old table
s/    take_back_chunk\(d, c, 0\);\n    cda_unbind\(cda, c\);/    cda_unbind(cda, c);/
