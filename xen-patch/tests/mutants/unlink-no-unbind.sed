# the end of a session unbinds
s/            unbind\(cda, &s->ranges->r\[i\]->chunk\[j\]\);\n    \}/            (void)0;\n    }/
