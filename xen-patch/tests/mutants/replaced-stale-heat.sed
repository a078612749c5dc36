# sync_replaced() forgets what was hot
s/    if \( c->heat \)\n        memset\(c->heat, 0, sizeof\(\*c->heat\)\);\n//
