# counts beyond the operand are the CPU's
s/\(ctxt->regs->rcx & 31\) >= x86_insn_opsize\(state\)/0/
