# take_back_entry() takes back granted RW
s/if \( !granted \|\| /if ( 1 || !granted || /
