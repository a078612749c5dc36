# begin refuses frames that cannot be tracked
s/if \( refused && op == CDA_OP_begin \)/if ( 0 )/
