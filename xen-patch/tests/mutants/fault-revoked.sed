# the fault handler looks at revocation
s/!\(s->forward \| s->revoked\)/!s->forward/
