# detach and revocation take back
s/if \( !take_back\(s, d, NULL\) \)/if ( 0 )/
