# stores are counted
s/    r->found \+= nr;\n//
