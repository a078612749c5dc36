# unregister takes back
s/        take_back_chunk\(d, &r->chunk\[i\], 0\);/        (void)0;/
