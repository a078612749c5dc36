# Xen's faults with interrupts disabled are not fixed
s/\(in_irq\(\) \|\| !\(regs->eflags & X86_EFLAGS_IF\)\)/in_irq()/
