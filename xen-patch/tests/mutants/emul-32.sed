# only 64-bit instructions are performed
s/         long_mode_process\(regs\) && cda_emulate/         cda_emulate/
