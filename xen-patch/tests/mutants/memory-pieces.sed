# expected L2 entries in pieces of a page
s/#define WANTS_SHIFT       9/#define WANTS_SHIFT       12/
