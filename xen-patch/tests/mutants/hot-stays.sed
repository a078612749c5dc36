# a watched page stays watched when it was written
s/    if \( test_bit\(slot, h->hot\) \)\n    \{/    if ( 0 )\n    {/
