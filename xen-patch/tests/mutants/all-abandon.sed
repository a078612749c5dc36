# another operation on all ranges loses the interrupted one
s/(    if \( !resume \)\n    \{\n)        abandon_all\(s\);/\1        (void)0;/
