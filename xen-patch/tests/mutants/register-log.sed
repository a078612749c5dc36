# logs lie below 2^47
s/\(reg->log & 63\) \|\| reg->log >= VA_END \|\|/(reg->log \& 63) ||/
