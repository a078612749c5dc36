# ranges are limited
s/if \( nr >= s->max_ranges \|\| /if (/
