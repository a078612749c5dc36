# a session keeps its domain's counts alive
s/        atomic_inc\(&cda->refs\);\n//
