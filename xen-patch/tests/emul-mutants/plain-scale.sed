# the index is scaled
s/ << \(\*p >> 6\);/;/
