# 32-bit guests are refused
s/         is_pv_32bit_vcpu\(curr\) \|\|\n//
