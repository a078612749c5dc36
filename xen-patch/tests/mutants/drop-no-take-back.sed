# unregister takes back
s/        track_take_back\(d, r, i, NULL\);/        track_touch(r, i);/
