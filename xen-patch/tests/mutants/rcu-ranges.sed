# tables of ranges are freed after a grace period
s/    if \( tab \)\n        call_rcu\(&tab->rcu, free_ranges_rcu\);/    xfree(tab);/
