# withhold() looks at D of a watched page
s/if \( !\(l1e & \(CDA_L1E_RO \| _PAGE_DIRTY\)\) \)\n            cda_cool/if ( !(l1e \& CDA_L1E_RO) )\n            cda_cool/
