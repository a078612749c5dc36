# the end of a session unbinds
s/            unbind\(cda, &s->ranges->r\[i\]->chunk\[j\]\);\n\n    cda/            (void)0;\n\n    cda/
