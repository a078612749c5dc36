# withhold() marks a watched page which was written
s/            cda_entry_update\(d, l1mfn, pl1e\);\n//
