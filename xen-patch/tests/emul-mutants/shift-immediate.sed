# counts beyond the operand are the CPU's
s/\(x86_insn_immediate\(state, 0\) & 31\) >= x86_insn_opsize\(state\)/0/
