# REX.X extends the index
s/\(rex & REX_X \? 8 : 0\)/0/
