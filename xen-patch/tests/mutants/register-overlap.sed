# ranges do not overlap
s/if \( cda_overlaps\(start, end, o->start, o->end\) \|\|/if (/
