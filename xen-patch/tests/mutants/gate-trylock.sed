# one operation at a time
s/if \( unlikely\(!spin_trylock\(&s->lock\)\) \)/if ( !spin_trylock(\&s->lock) \&\& 0 )/
