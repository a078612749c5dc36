# take_back() remembers where it was
s/    if \( back && back->for_what == for_what \)\n    \{\n        va = back->va;/    if ( back )\n    {\n        va = back->va;/
