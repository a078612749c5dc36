# Xen's own faults wait for a bounded time
s/if \( unlikely\(from_xen\) && l1_stays_locked\(l1\) \)/if ( 0 \&\& l1_stays_locked(l1) )/
