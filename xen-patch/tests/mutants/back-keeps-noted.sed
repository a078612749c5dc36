# take_back_entry() takes RW of pages in the map
s/if \( !\(granted \|\| \(old & \(CDA_L1E_RO \| CDA_L1E_WATCH\)\)\) \|\|/if ( !(old \& (CDA_L1E_RO | CDA_L1E_WATCH)) ||/
