# cda_table_gone() unbinds chunks of an L1 table
s/        l1_gone\(cda, mfn\);/        (void)mfn;/
