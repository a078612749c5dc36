# a write while watched starts the clean cycles anew
s/        h->streak\[slot\] = 0;\n        return true;\n    \}/        return true;\n    }/
