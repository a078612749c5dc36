# take_back_entry() takes back granted RW
s/if \( !\(granted \|\| \(old/if ( 1 || !(granted || (old/
