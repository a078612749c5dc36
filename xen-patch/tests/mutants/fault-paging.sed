# the fault handler refuses in log-dirty mode
s/!\(s->forward \| s->revoked\) && !unlikely\(paging_mode_enabled\(d\)\)/!(s->forward | s->revoked)/
