# control is for 64-bit PV domains
s/if \( !is_pv_domain\(d\) \|\| is_pv_32bit_domain\(d\) \)/if ( 0 )/
