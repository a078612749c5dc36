# sync_watched() reads D
s/            written \|= 1UL << b;/            (void)0;/
