# sync_replaced() notes which pages it left writable
s/            __set_bit\(i, c->heat->hot\);\n            watched = true;/            watched = true;/
