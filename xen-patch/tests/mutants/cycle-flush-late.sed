# do_cycle() flushes when it is interrupted
s/(    if \( changed )(\)\n        flush)/\1\&\& rc != -ERESTART \2/
