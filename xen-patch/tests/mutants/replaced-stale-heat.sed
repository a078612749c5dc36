# sync_replaced() forgets what was hot
s/    if \( r->heat \)\n        memset\(&r->heat\[n\], 0, sizeof\(\*r->heat\)\);\n//
