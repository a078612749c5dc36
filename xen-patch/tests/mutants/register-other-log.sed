# a range is not on a log
s/ +cda_overlaps\(start, end, o->log, o_log_end\) \|\|\n//
