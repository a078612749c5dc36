# do_cycle() flushes when it is interrupted
s/(    if \( changed )(\)\n        cda_flush)/\1\&\& rc != -ERESTART \2/
