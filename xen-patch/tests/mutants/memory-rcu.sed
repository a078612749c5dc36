# an RCU callback frees a little
s/#define FREED_AT_ONCE     2u/#define FREED_AT_ONCE     1000u/
