# take_back_entry() gives D back
s/\| mark \| _PAGE_DIRTY;/| mark;/
