# the epoch of a log is written last
s/copy_to_guest_pv\(\(void __user \*\)\(r->log \+ sizeof\(h\.epoch\)\),\n *&h\.count, sizeof\(h\) - sizeof\(h\.epoch\)\)/copy_to_guest_pv((void __user *)r->log, \&h, sizeof(h))/
