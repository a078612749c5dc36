# unregister takes back
s/        take_back_chunk\(d, chunk_at\(r, i\), 0\);/        (void)0;/
