# unregister unbinds before it frees
s/    track_forget\(cda, r\);\n/    (void)0;\n/
