# masked stores of mmx are the CPU's
s/case X86EMUL_OPC\(0x0f, 0xf7\):        \/\* maskmovq \*\///
