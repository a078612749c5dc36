# unregister unbinds before it frees
s/        unbind\(cda, &r->chunk\[i\]\);\n    flush/        (void)0;\n    flush/
