# a constant of four bytes has a sign
s/value = \*\(const int32_t/value = *(const uint32_t/
