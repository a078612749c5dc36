# begin refuses frames that cannot be tracked
s/if \( w\.refused && op == CDA_OP_begin \)/if ( 0 )/
