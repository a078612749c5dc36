# 32-bit guests are refused
s/unlikely\(!opt_cda\) \|\| is_pv_32bit_vcpu\(curr\) \|\|/unlikely(!opt_cda) ||/
