# take_back() remembers where it was
s/    if \( back->for_what == for_what \)\n    \{\n        va = back->va;/    va = back->va;\n    if ( back->for_what == for_what )\n    {/
