# guests cannot set CDA_L1E_NEVER
s/cda_l1e_keep = ~CDA_L1E_BITS;/cda_l1e_keep = ~(CDA_L1E_BITS \& ~CDA_L1E_NEVER);/
