# unregister returns its log of stores
s/uncharge\(s, r->pages, !!r->words\);/uncharge(s, r->pages, 0);/
