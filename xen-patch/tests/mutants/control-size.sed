# control structures of another size are refused
s/    if \( u.h.size != size \)\n        return -EINVAL;//
