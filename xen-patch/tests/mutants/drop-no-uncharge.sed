# unregister returns the quota
s/uncharge\(s, r->pages, !!r->words\);/uncharge(s, 0, !!r->words);/
