# cda=off
s/    if \( likely\(opt_cda\) && /    if ( /
