# masked stores are the CPU's
s/case X86EMUL_OPC_66\(0x0f, 0xf7\):     \/\* maskmovdqu \*\///
