# guest kernels are refused
s/         \(curr->arch\.flags & TF_kernel_mode\) \|\|\n//
