# protect_entry() does not watch what the guest made read-only
s/        if \( unlikely\(!\(old & _PAGE_RW\)\) \)\n        \{\n            \/\* cda/        if ( unlikely(!(old \& _PAGE_RW)) \&\& !watch )\n        {\n            \/* cda/
