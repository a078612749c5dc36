# Xen's faults with interrupts disabled are not fixed
s/if \( in_irq\(\) \|\| !\(regs->eflags & X86_EFLAGS_IF\) \)/if ( in_irq() )/
