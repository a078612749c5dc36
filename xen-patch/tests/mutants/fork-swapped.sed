# an entry that is not present may share a page
s/found = ACCESS_ONCE\(table\[i\]\);/found = table[i] \& _PAGE_PRESENT;/
