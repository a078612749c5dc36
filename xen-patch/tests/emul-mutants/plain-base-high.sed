# REX.B extends the base
s/rm \| \(rex & REX_B \? 8 : 0\)/rm/
