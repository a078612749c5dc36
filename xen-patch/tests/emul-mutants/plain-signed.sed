# a displacement of one byte has a sign
s/const int8_t/const uint8_t/
