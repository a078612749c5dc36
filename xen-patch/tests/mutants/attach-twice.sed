# one session an address space
s/else if \( find_session\(cda, l4\) \)/else if ( 0 )/
