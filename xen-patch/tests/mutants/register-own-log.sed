# a log is not in its own range
s/if \( cda_overlaps\(reg.start, end, reg.log, log_end\) \)/if ( 0 )/
