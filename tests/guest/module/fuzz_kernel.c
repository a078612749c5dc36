// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a hostile guest kernel can do with the gate and the control hypercall:
 * int 0x84 with random registers must be the #GP it is without the patch, and
 * hypercall 55 must be denied, whatever its arguments.
 *
 * insmod fuzz_kernel.ko [calls=N] [seed=N]; the results are module parameters.
 */
#include <linux/module.h>
#include <linux/sched.h>
#include <asm/asm.h>

static unsigned long calls = 100000, seed = 1;
static unsigned long faults, denials, wrong;
module_param(calls, ulong, 0444);
module_param(seed, ulong, 0444);
module_param(faults, ulong, 0444);
module_param(denials, ulong, 0444);
module_param(wrong, ulong, 0444);

static unsigned long next(void)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return seed * 0x2545f4914f6cdd1dUL;
}

/* Small, near an edge, the stack's, or any. */
static unsigned long odd(void)
{
	switch (next() >> 62) {
	case 0:
		return (next() >> 32) % 12;
	case 1:
		return (1UL << (next() >> 58)) - (next() >> 63);
	case 2:
		return (unsigned long)&seed;
	}
	return next();
}

/* True if it faulted, which leaves rax alone. */
static bool gate(unsigned long *rax)
{
	register unsigned long r10 asm("r10") = odd();
	register unsigned long r8 asm("r8") = odd();
	unsigned int faulted;

	asm volatile("movl $1, %[f]\n"
		     "1: int $0x84\n"
		     "movl $0, %[f]\n"
		     "2:\n"
		     _ASM_EXTABLE(1b, 2b)
		     : [f] "=&r" (faulted), "+a" (*rax), "+r" (r10), "+r" (r8)
		     : "D" (odd()), "S" (odd()), "d" (odd())
		     : "memory", "cc");
	return faulted;
}

static long control(unsigned long cmd, unsigned long arg)
{
	long rax = 55;

	/* A guest kernel's SYSCALL is a hypercall. */
	asm volatile("syscall"
		     : "+a" (rax), "+D" (cmd), "+S" (arg)
		     :
		     : "memory", "cc", "rcx", "rdx", "r8", "r9", "r10", "r11");
	return rax;
}

static int __init fuzz_init(void)
{
	unsigned long i;

	seed = seed * 0x9e3779b97f4a7c15UL | 1;
	for (i = 0; i < calls; i++) {
		unsigned long op = odd(), rax = op;

		if (gate(&rax) && rax == op)
			faults++;
		else
			wrong++;
		if (control((next() >> 32) % 9, odd()) == -EPERM)
			denials++;
		else
			wrong++;
		if (i % 1024 == 0)
			cond_resched();
	}
	return 0;
}

static void __exit fuzz_exit(void)
{
}

module_init(fuzz_init);
module_exit(fuzz_exit);
MODULE_DESCRIPTION("Random use of int 0x84 and hypercall 55 by a guest kernel");
MODULE_LICENSE("GPL");
