# the fault handler obeys CDA_LIMIT_FORWARD
s/!\(s->forward \| s->revoked\)/!s->revoked/
