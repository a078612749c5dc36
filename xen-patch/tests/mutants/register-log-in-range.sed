# a log is not in another range
s/ +cda_overlaps\(log, log_end, o->start, o->end\) \|\|\n//
