# unregister unbinds before it frees
s/        cda_unbind\(cda, chunk_at\(r, i\)\);\n\n    spin_lock/        (void)0;\n\n    spin_lock/
