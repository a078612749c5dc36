# the inline references only count writable frames
s/likely\(\(x & TYPE_STATE\) == WRITABLE\)/likely((x \& TYPE_STATE \& ~PGT_type_mask) == PGT_validated)/g
