# detach and revocation take back
s/if \( !take_back\(s, d, &s->drop, s, 0, NULL\) \)/if ( 0 )/
