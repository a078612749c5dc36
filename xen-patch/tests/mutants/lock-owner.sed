# lock_l1() wants the domain's own frame
s/if \( unlikely\(!get_page\(pg, d\)\) \)\n        return NULL;\n\n    if \( likely\(page_lock/if ( !get_page(pg, page_get_owner(pg)) )\n        return NULL;\n\n    if ( likely(page_lock/
