# cda_guest_update() looks at CDA_L1E_WATCH too
s/!\(l1e & CDA_L1E_TRACKED\)\) \|\| !cda/!(l1e \& (CDA_L1E_RO | CDA_L1E_SEEN))) || !cda/
