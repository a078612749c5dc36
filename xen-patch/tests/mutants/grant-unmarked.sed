# grants carry CDA_L1E_NEVER
s/cda_l1e_grant = CDA_L1E_NEVER;/cda_l1e_grant = 0;/
