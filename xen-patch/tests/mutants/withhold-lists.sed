# withhold() does not list a watched page which nobody wrote
s/if \( !\(l1e & \(CDA_L1E_RO \| _PAGE_DIRTY\)\) \)\n            cda_cool/if ( 0 )\n            cda_cool/
