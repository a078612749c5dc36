# the emulator may ask for the x87
s/\.put_fpu      = emul_put_fpu/.put_fpu      = 1 ? NULL : emul_put_fpu/
