# without a gate there is nothing
s/        opt_cda = false;\n    \}\n\n    if \( opt_cda \)/    }\n\n    if ( opt_cda )/
