# the second root of an address space was looked at
s/if \( !i && \(pg->u.inuse.type_info/if ( 0 \&\& (pg->u.inuse.type_info/
