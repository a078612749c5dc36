# unused registers are zero
s/if \( unlikely\(regs->rdx \| regs->r10\) \)/if ( 0 )/
