# revocation leaves a session alone which ended meanwhile
s/    if \( s->dead \)\n    \{\n/    if ( 0 )\n    {\n/
