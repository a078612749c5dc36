# a token for unknown modes is refused
s/         \(t->modes & ~CDA_MODES\) \|\|\n//
