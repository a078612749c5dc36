# cda_do_store() logs under the lock
s/    spin_lock\(&words->lock\);\n    if \( words->nr \+ 2/    if ( words->nr + 2/
s/            log_words\(store, va, new, bytes\);\n    \}\n    spin_unlock\(&words->lock\);/        {\n            spin_lock(\&words->lock);\n            spin_unlock(\&words->lock);\n            log_words(store, va, new, bytes);\n        }\n    }/
