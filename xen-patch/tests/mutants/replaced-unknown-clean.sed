# sync_replaced() keeps unknown pages dirty
s/            __set_bit\(i, c->dirty\);\n            unknown = true;/            unknown = true;/
