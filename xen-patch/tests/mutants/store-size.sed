# cda_do_store() takes 1 to 16 bytes
s/if \( !bytes \|\| bytes > 16 \|\| \(va & PAGE_MASK\)/if ( (va \& PAGE_MASK)/
