# ranges do not overlap
s/if \( overlaps\(reg.start, end, o->start, o->end\) \|\|/if (/
