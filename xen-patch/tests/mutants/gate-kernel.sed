# guest kernels are refused
s/         guest_kernel_mode\(curr, regs\) \|\|\n         curr/         curr/
