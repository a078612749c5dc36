# Scanxen watches all
s/    if \( r->mode == CDA_MODE_SCANXEN \)\n        return true;\n\n    if \( test_bit/    if ( test_bit/
