# unregister unbinds before it frees
s/        unbind\(cda, &r->chunk\[i\]\);\n\n    spin_lock/        (void)0;\n\n    spin_lock/
