# withhold() leaves alone what Xen did not grant
s/while \( is_granted\(l1e = ACCESS_ONCE\(l1e_get_intpte\(\*pl1e\)\)\) \)/while ( (l1e = ACCESS_ONCE(l1e_get_intpte(*pl1e))) \& _PAGE_RW )/
