# take_back_entry() only takes RW that Xen granted
s/if \( !\(granted \|\| \(old & \(CDA_L1E_RO \| CDA_L1E_WATCH\)\)\) \|\|\n                 !\(pg/if ( !(pg/
