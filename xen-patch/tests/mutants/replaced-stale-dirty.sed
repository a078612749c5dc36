# sync_replaced() starts with a clean map
s/    memset\(c->dirty, 0, sizeof\(c->dirty\)\);\n//
