# do_cycle() flushes when it is interrupted
s/(    if \( w\.changed )(\)\n        cda_flush)/\1\&\& rc != -ERESTART \2/
