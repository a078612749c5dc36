# what the way to a table allows is part of what is compared
s/_PAGE_RW \| _PAGE_USER \| _PAGE_PSE\)/_PAGE_PSE)/
