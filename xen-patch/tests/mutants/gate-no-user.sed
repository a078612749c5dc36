# no user page table, no gate
s/ \|\|\n         pagetable_is_null\(curr->arch\.guest_table_user\) \)\n        imp/ )\n        imp/
