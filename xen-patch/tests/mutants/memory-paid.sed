# what was registered counts for the rate
s/    s->paid = max\(s->paid, now\) \+ kib \* NS_PER_KIB;\n//
