# protect_entry() uses cmpxchg
s/seen = cmpxchg\(p, old, new\);/(sched_at("x"), *p = new, seen = old);/
