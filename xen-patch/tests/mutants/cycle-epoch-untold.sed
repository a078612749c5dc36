# the epoch of a log is written
s/ \|\|\n *put_word\(r->log, h\.epoch\)//
