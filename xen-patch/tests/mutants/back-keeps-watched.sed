# take_back_entry() takes RW of watched pages
s/if \( !\(granted \|\| \(old & \(CDA_L1E_RO \| CDA_L1E_WATCH\)\)\) \|\|/if ( !(granted || (old \& CDA_L1E_RO)) ||/
