# a page which cooled starts anew
s/            \*streak = 0;\n            __clear_bit/            __clear_bit/
