# operations need the cookie
s/if \( unlikely\(regs->rdi != s->cookie\) \)/if ( 0 )/
