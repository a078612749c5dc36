# a failed register returns the quota
s/uncharge\(s, reg\.pages, words\);/uncharge(s, 0, words);/
