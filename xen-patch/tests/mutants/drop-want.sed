# an unfinished unregister leaves chunks to be walked anew
s/        ACCESS_ONCE\(\*want_at\(r, i\)\) = WANT_TOUCHED;\n        if \( hypercall/        if ( hypercall/
