# a token without modes opens all
s/s->modes = t->modes \?: CDA_MODES;/s->modes = t->modes;/
