# detach and revocation unbind
s/        track_forget\(cda, tab->r\[i\]\);/        (void)0;/
