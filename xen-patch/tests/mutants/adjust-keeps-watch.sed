# guests cannot set or keep CDA_L1E_WATCH
s/cda_l1e_keep = ~CDA_L1E_BITS;/cda_l1e_keep = ~(CDA_L1E_BITS \& ~CDA_L1E_WATCH);/
