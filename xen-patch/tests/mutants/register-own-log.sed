# a log is not in its own range
s/if \( cda_overlaps\(start, end, log, log_end\) \)/if ( 0 )/
