# base 5 without displacement is none
s/if \( rm == 5 && !mod \)\n            mod = 2;/if ( 0 )\n            mod = 2;/
