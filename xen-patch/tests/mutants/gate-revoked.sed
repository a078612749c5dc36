# revoked sessions only detach
s/if \( unlikely\(s->revoked\) && op != CDA_OP_detach \)/if ( 0 )/
