# begin and end check whether a cycle is open
s/if \( op == CDA_OP_begin \? r->active : !r->active \)/if ( 0 )/
