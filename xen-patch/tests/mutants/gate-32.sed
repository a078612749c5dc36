# 32-bit processes are refused
s/return valid && \(ar & _SEGMENT_L\);/return valid;/
