# the end of a session unbinds
s/            cda_unbind\(cda, chunk_at\(s->ranges->r\[i\], j\)\);\n    \}/            (void)0;\n    }/
