# registering has a rate
s/ \|\| s->paid > now \+ MAX_AHEAD//
