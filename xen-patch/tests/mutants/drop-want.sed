# an unfinished unregister leaves chunks to be walked anew
s/        track_take_back\(d, r, i, NULL\);/        take_back_chunk(d, chunk_at(r, i), 0);/
