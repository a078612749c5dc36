# the fault handler looks at revocation
s/!s->revoked && !unlikely\(paging_mode_enabled\(d\)\)/!unlikely(paging_mode_enabled(d))/
