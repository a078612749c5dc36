# cda_do_store() refuses in log-dirty mode
s/         s->revoked \|\| paging_mode_enabled\(d\) \)\n        goto out;/         s->revoked )\n        goto out;/
