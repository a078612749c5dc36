# clean cycles are counted from zero
s/        return false;\n    h->streak\[slot\] = 0;\n\n    return true;/        return false;\n\n    return true;/
