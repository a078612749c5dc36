# peek cools nothing
s/else if \( protect && r->mode == CDA_MODE_AUTOXEN &&/else if ( r->mode == CDA_MODE_AUTOXEN \&\&/
