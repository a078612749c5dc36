# no memory, no charge
s/        atomic_sub\(kib, &s->cda->kib\);\n        uncharge/        uncharge/
