# it points behind the constant
s/ \+ 4 \+\n             \(opcode >= 0xc6 \? min\(size, 4U\) : 0\)/ + 4/
