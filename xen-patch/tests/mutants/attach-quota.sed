# sessions are limited
s/if \( cda->used_sessions >= cda->max_sessions \|\|/if (/
