# only instructions below 2^47 are performed
s/    if \( !guest_kernel_mode\(current, regs\) && regs->rip < VA_END &&/    if ( !guest_kernel_mode(current, regs) \&\&/
