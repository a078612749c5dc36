# cda_entry_read() flushes
s/(take_back_entry\(d, entry, false, 0\);[^;]*\*\/\n *)flush_tlb_mask\(d->dirty_cpumask\);/\1(void)0;/
