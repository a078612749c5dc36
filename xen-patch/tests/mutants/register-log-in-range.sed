# a log is not in another range
s/ +overlaps\(reg.log, log_end, o->start, o->end\) \|\|\n//
