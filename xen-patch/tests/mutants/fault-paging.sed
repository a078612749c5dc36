# the fault handler refuses in log-dirty mode
s/!s->revoked && !unlikely\(paging_mode_enabled\(d\)\)/!s->revoked/
