# cda_table_new() takes back
s/if \( !take_back\(s, curr->domain, &s->fork, l4, CDA_L1E_SEEN, l4\) \)/if ( 0 )/
