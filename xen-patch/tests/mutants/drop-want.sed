# an unfinished unregister leaves chunks to be walked anew
s/        ACCESS_ONCE\(r->want\[i\]\) = WANT_TOUCHED;\n        if \( hypercall/        if ( hypercall/
