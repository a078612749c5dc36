# no user page table, no gate
s/!pagetable_is_null\(curr->arch.guest_table_user\) \)/true )/
