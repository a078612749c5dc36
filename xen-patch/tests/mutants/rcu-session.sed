# sessions are freed after a grace period
s/    call_rcu\(&s->rcu, free_session_rcu\);/    free_session_rcu(\&s->rcu);/
