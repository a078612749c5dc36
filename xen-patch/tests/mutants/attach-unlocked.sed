# attach holds the lock of its session until the answer is out
s/    if \( !spin_trylock\(&s->lock\) \)\n        ASSERT_UNREACHABLE\(\);\n//;s/(    if \( rc \)\n    \{\n)        spin_unlock\(&s->lock\);\n(        rcu_read_unlock\(&cda_rcu\);\n        xvfree)/\1\2/;s/(        rc = -EFAULT;\n    \}\n)    spin_unlock\(&s->lock\);\n/\1/
