# sync_touched() notes which pages it left writable
s/                    __set_bit\(slot, h->hot\);\n                    if/                    if/
