# empty slots are no tokens
s/uint8_t diff = !t->used \| /uint8_t diff = /
