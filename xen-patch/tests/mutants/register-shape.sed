# structures of another size or with unknown bits are refused
s/if \( reg->size != sizeof\(\*reg\) \|\| reg->flags \|\| reg->reserved\[0\] \|\|/if ( reg->flags || reg->reserved[0] ||/
