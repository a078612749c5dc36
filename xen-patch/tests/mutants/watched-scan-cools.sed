# Scanxen cools nothing
s/else if \( protect && r->mode == CDA_MODE_AUTOXEN &&/else if ( protect \&\&/
