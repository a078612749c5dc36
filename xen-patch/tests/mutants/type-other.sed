# the inline references only count writable frames
s/#define WRITABLE          \(PGT_writable_page \| PGT_validated\)/#define WRITABLE PGT_validated/; s/#define WRITABLE_MASK     \(PGT_type_mask \| PGT_validated \| PGT_partial \| \\\n                           PGT_locked\)/#define WRITABLE_MASK     PGT_validated/
