# protect_entry() asks trackable() about entries not looked at before
s/            if \( likely\(old & \(CDA_L1E_RO \| CDA_L1E_WATCH\)\) \)/            if ( 1 )/
