# withhold() marks a watched page which was written
s/            note_entry\(d, l1mfn, pl1e, false\);\n//
