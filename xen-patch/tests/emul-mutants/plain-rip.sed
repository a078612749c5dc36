# the instruction is over
s/regs->rip \+= p - e->insn;//
