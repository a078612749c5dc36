# end and commit empty the log of stores
s/    if \( !keep \)\n    \{\n        words/    if ( 0 )\n    {\n        words/
