# logs of stores in pieces of a page
s/#define WORDS_SHIFT       8/#define WORDS_SHIFT       9/
