# Xen's own writes are never performed by the emulator
s/    else if \( unlikely\(r->words\) && emulated/    if ( unlikely(r->words) \&\& emulated/
