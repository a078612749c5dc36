# the epoch of a log is written
s/ \|\|\n *put_guest\(h\.epoch, \(uint64_t __user \*\)r->log\)//
