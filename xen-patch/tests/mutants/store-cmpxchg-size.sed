# cmpxchg takes powers of two
s/    if \( \(bytes & \(bytes - 1\)\) \|\| \(va & \(bytes - 1\)\) \)/    if ( va \& (bytes - 1) )/
