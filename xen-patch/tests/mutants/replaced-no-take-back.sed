# sync_replaced() takes back from the old table
s/    take_back_chunk\(d, c, 0\);\n    unbind\(cda, c\);/    unbind(cda, c);/
