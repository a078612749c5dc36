# take_back_slots() notes what D alone knew
s/mark\) \)\n            set_bit\(i, c->dirty\);/mark) )\n            (void)0;/
