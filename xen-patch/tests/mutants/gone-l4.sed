# cda_table_gone() ends the session with its root
s/        if \( s \)\n            unlink_session\(cda, s, true\);/        (void)s;/
