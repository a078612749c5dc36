# cda_guest_update() looks at CDA_L1E_SEEN too
s/if \( !cda \|\| !\(l1e & _PAGE_PRESENT\) \)/if ( !cda || !(l1e \& _PAGE_PRESENT) || !(l1e \& (CDA_L1E_RO | CDA_L1E_WATCH)) )/
