# the fault handler forwards faults in unbound chunks
s/    if \( unlikely\(mfn_eq\(l1, INVALID_MFN\)\) \)\n        goto forward;\n//
