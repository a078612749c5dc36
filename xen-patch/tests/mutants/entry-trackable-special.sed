# trackable(): special pages
s/ \|\| is_special_page\(pg\)//
