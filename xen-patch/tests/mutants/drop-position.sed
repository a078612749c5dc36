# the position of an unfinished detach is forgotten by begin
s/    s->drop.for_what = NULL;//
