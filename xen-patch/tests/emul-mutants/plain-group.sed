# c6 and c7 are stores with \/0 only
s/ \|\| \(opcode >= 0xc6 && reg\)//
