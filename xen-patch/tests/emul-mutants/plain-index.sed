# index 4 without REX.X is none
s/if \( index != 4 \)//
