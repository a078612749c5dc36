# do_cycle() flushes after a page was cooled
s/            \*changed = true;\n//
