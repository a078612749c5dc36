# cda_cool() notices a write which came in between
s/    if \( cmpxchg\(&l1e_get_intpte\(\*pl1e\), old, new\) != old \)\n        return false;/    sched_at("cool");\n    l1e_get_intpte(*pl1e) = new;/
