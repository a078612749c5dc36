# ranges are freed after a grace period
s/    call_rcu\(&r->rcu, free_range_rcu\);/    free_range_rcu(\&r->rcu);/
