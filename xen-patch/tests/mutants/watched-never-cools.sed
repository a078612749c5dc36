# a clean page cools
s/\+\+\*streak >= COLD_AFTER/0/
