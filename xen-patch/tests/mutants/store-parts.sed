# an entry holds a power of two of bytes
s/    return bytes >= 8 \? 8 : bytes >= 4 \? 4 : bytes >= 2 \? 2 : 1;/    return bytes >= 8 ? 8 : bytes;/
