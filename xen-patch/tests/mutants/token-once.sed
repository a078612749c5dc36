# a token is used up
s/        memset\(t, 0, sizeof\(\*t\)\);\n        cda->used/        cda->used/
