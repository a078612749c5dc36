# take_back_entry() leaves entries that are not present
s/        if \( !\(old & _PAGE_PRESENT\) \)\n            return false;\n\n        if \( old & _PAGE_RW \)/        if ( old \& _PAGE_RW )/
