# l1_gone() makes the chunk walk anew
s/ACCESS_ONCE\(\*c->want\) = WANT_TOUCHED;\n        \}/(void)0;\n        }/
