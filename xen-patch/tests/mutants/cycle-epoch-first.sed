# the epoch of a log is written last
s/copy_out\(r->log \+ sizeof\(h\.epoch\), &h\.count,\n *sizeof\(h\) - sizeof\(h\.epoch\)\)/copy_out(r->log, \&h, sizeof(h))/
