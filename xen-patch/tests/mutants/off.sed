# cda=off
s/if \( unlikely\(!opt_cda\) \|\| is_pv_32bit/if ( is_pv_32bit/
