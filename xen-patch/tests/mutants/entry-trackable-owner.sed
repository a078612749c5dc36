# trackable(): frames of other owners
s/ \|\| page_get_owner\(pg\) != d//
