# ranges do not overlap
s/if \( cda_overlaps\(reg.start, end, o->start, o->end\) \|\|/if (/
