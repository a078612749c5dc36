# cycles are counted
s/        r->pass\+\+;/        (void)0;/
