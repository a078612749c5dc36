# even opcodes store one byte
s/if \( !\(opcode & 1\) \)\n        size = 1;//
