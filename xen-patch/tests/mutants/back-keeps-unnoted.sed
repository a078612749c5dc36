# take_back_entry() takes RW of entries with CDA_L1E_RO
s/if \( !\(granted \|\| \(old & \(CDA_L1E_RO \| CDA_L1E_WATCH\)\)\) \|\|/if ( !(granted || (old \& CDA_L1E_WATCH)) ||/
