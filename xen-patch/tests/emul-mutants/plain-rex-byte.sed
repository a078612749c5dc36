# but not with REX
s/size == 1 && !rex && reg >= 4/size == 1 \&\& reg >= 4/
