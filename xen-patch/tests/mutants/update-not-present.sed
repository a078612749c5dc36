# cda_guest_update() only looks at present entries
s/if \( !cda \|\| !\(l1e & _PAGE_PRESENT\) \)/if ( !cda )/
