# stores are logged in one list while the other is copied
s/        words->which \^= 1;\n//
