# a page which cooled is not watched any more
s/            __clear_bit\(b, &h->hot\[w\]\);\n            \*changed/            *changed/
