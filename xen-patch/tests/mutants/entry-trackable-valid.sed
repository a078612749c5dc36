# trackable(): frame exists
s/!mfn_valid\(mfn\) \|\| page_get_owner/page_get_owner/
