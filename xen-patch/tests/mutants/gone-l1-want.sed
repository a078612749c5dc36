# l1_gone() makes the chunk walk anew
s/ACCESS_ONCE\(\*want_of\(c\)\) = WANT_TOUCHED;\n        \}/(void)0;\n        }/
