// SPDX-License-Identifier: GPL-2.0-only
/*
 * A guest kernel which has a use of its own for vector 0x84: on every virtual
 * CPU, a handler for int 0x84 of user mode, which answers 0x84848484.
 *
 * Xen keeps an entry of the trap table once it is there: the module stays.
 */
#include <linux/module.h>
#include <linux/smp.h>

#define VECTOR 0x84

/* As Xen's public header has it. */
struct trap_info {
	u8 vector;
	u8 flags; /* the least privileged ring that may use it */
	u16 cs;
	unsigned long address;
};

extern char own_vector_handler[];
static atomic_t refused;

/* Xen pushes rcx and r11 above the usual frame; hypercall 23 is its IRET. */
asm(".pushsection .text\n"
    ".globl own_vector_handler\n"
    "own_vector_handler:\n"
    "	popq %rcx\n"
    "	popq %r11\n"
    "	pushq $0\n"
    "	pushq %rcx\n"
    "	pushq %r11\n"
    "	movl $0x84848484, %eax\n"
    "	pushq %rax\n"
    "	movl $23, %eax\n"
    "	syscall\n"
    "	ud2\n"
    ".popsection\n");

static void install(void *unused)
{
	struct trap_info table[2] = {
		{ VECTOR, 3, 0xe033, (unsigned long)own_vector_handler },
	};
	const void *arg = table;
	long rax = 0; /* set_trap_table */

	asm volatile("syscall"
		     : "+a" (rax), "+D" (arg)
		     :
		     : "memory", "cc", "rcx", "rsi", "rdx", "r8", "r9", "r10", "r11");
	if (rax)
		atomic_inc(&refused);
}

static int __init own_vector_init(void)
{
	on_each_cpu(install, NULL, 1);
	return atomic_read(&refused) ? -EPERM : 0;
}

module_init(own_vector_init);
MODULE_DESCRIPTION("A guest kernel's own handler of int 0x84");
MODULE_LICENSE("GPL");
