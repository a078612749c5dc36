# attach that cannot answer leaves no session
s/(offsetof\(struct cda_attach, cookie\), s->cookie\) \)\n    \{\n        spin_lock\(&cda->lock\);\n)        unlink_session\(cda, s, false\);\n/\1/
