# a token of zeroes is refused
s/ \|\|\n         !memcmp\(t->token, none, sizeof\(none\)\) \)/ )/
