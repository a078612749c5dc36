# do_cycle() flushes after D was cleared
s/return protected \|\| watched \|\| changed;/return protected || changed;/
