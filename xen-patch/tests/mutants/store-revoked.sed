# cda_do_store() looks at revocation
s/         s->revoked \|\| paging_mode_enabled\(d\) \)\n        goto out;/         paging_mode_enabled(d) )\n        goto out;/
