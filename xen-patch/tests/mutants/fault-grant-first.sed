# the fault handler marks the chunk before it grants
s/(        set_bit\(slot, c->dirty\);\n        set_bit\(__builtin_ctzl\(WANT_TOUCHED\), c->want\);\n)(.*)(        fixed = regrant\(&pl1e\[slot\], l1e\);\n)/\3\1\2/
