# a displacement of four bytes has a sign
s/va \+= \*\(const int32_t/va += *(const uint32_t/
