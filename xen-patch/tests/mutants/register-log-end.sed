# logs end below 2^47
s/ \|\|\n         reg->log_bytes > VA_END - reg->log \)/ )/
