# sessions of a tag are limited
s/sessions_with_tag\(cda, t->tag\) >= t->max_sessions/0/
