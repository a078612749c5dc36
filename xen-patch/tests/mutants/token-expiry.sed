# a token expires
s/uint8_t diff = !t->used \| \(now >= t->expires\);/uint8_t diff = !t->used;/
