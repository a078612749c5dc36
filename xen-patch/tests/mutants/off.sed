# cda=off admits no domain
s/    if \( !opt_cda \)\n        return -ENOSYS;\n//
