# register waits for the memory of former ranges
s/    if \( atomic_read\(&s->going\) > MAX_GOING \|\|/    if (/
