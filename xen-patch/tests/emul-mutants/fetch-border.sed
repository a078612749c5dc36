# an instruction may end before its page does
s/at >= e->bytes \|\| bytes > e->bytes - at/bytes > AT_ONCE - at/
