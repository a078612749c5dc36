# operations are refused in log-dirty mode
s/    if \( unlikely\(paging_mode_enabled\(d\)\) \)\n        return -EOPNOTSUPP;//
