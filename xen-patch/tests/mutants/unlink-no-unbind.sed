# the end of a session unbinds
s/        track_forget\(cda, s->ranges->r\[i\]\);/        (void)0;/
