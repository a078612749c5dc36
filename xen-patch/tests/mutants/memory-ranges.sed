# a table of ranges is one page
s/#define MAX_RANGES        500 /#define MAX_RANGES        600 /
