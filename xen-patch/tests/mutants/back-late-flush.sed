# take_back() flushes when it is interrupted
s/(spin_unlock\(&s->back_lock\);\n[^\n]*\n)                flush\(s, d\);/\1/
