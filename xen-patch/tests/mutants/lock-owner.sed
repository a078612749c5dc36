# lock_l1() wants the domain's own frame
s/    if \( unlikely\(!ref_frame\(pg, d\)\) \)\n        return NULL;/    if ( unlikely(!ref_frame(pg, page_get_owner(pg))) )\n        return NULL;/
