# cmpxchg takes aligned operands
s/    if \( \(bytes & \(bytes - 1\)\) \|\| \(va & \(bytes - 1\)\) \)/    if ( bytes \& (bytes - 1) )/
