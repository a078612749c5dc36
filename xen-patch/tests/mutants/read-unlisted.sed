# cda_entry_read() marks page and chunk
s/cda_entry_update\(d, l1mfn, entry\);/(void)0;/
