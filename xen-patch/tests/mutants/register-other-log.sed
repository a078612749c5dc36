# a range is not on a log
s/ +overlaps\(reg.start, end, o->log, o_log_end\) \|\|\n//
