# take_back() remembers where it was
s/va = back->for_what == for_what \? back->va : 0;/va = back->va;/
