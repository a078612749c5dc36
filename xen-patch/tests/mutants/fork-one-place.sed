# address spaces which begin at once have each a position
s/(#define FORKS_AT_ONCE +)4u/\11u/
