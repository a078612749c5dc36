# one session an address space
s/else if \( find_session\(cda, root\) \)/else if ( 0 )/
