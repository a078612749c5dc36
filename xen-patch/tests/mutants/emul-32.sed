# only 64-bit instructions are performed
s/         caller_is_64bit\(regs\) && cda_emulate/         cda_emulate/
