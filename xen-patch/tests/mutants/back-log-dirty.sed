# take_back_chunk() drops the shadow of a table in log-dirty mode
s/if \( unlikely\(paging_mode_enabled\(d\)\) \)\n            shadow/if ( 0 )\n            shadow/
