# a failed register returns its log of stores
s/uncharge\(s, reg\.pages, words\);/uncharge(s, reg.pages, 0);/
