# cda_table_new() takes back
s/ && !take_back\(s, curr->domain, l4\) \)/ \&\& 0 )/
