# sync_replaced() notes which pages it left writable
s/            __set_bit\(i, r->heat\[n\]\.hot\);\n            watched = true;/            watched = true;/
