# the emulator may ask for the x87
s/    .put_fpu      = emul_put_fpu,\n//
