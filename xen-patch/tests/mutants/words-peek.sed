# peek leaves the stores in the log
s/    if \( !keep \)\n    \{\n        words/    if ( 1 )\n    {\n        words/
