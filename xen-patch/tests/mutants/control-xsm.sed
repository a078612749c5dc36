# control is for the privileged domain
s/    if \( rc \)\n        return rc;\n\n    if \( cmd == CDA_CTL_version/    if ( cmd == CDA_CTL_version/
