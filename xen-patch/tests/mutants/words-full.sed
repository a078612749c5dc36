# stores that do not fit lose the list
s/    if \( nr > room \)\n    \{\n        r->full = true;/    if ( nr > room )\n    {/
