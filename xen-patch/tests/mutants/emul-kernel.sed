# only the process's own stores are performed
s/    if \( !guest_kernel_mode\(current, regs\) && regs->rip < VA_END &&/    if ( regs->rip < VA_END \&\&/
