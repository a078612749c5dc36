# registers 4 to 7 are the high bytes of others
s/size == 1 && !rex && reg >= 4/0/
