# a register as the destination is no store
s/mod == 3 \|\| //
