# cda_do_store() logs
s/            log_words\(store, va, new, bytes\);/            (void)log_words;/
