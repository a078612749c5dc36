# a fork that is interrupted counts once
s/back->counted = counted;/back->counted = false;/
