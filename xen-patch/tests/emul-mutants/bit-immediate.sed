# bit numbers beyond the operand are the CPU's
s/x86_insn_immediate\(state, 0\) >= x86_insn_opsize\(state\)/x86_insn_immediate(state, 0) >= 256/
