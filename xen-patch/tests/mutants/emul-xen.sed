# Xen's own writes are never performed by the emulator
s/    else if \( unlikely\(r->words\) && cda_emulate_fault/    if ( unlikely(r->words) \&\& cda_emulate_fault/
