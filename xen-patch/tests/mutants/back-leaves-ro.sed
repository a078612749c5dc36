# take_back_entry() takes back CDA_L1E_RO
s/else if \( old & CDA_L1E_TRACKED \)/else if ( 0 )/
