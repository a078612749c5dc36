# cda_guest_update() only looks at present entries
s/ \|\| !cda \|\|\n         !\(l1e & _PAGE_PRESENT\) \)/ || !cda )/
