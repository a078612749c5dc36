/* SPDX-License-Identifier: GPL-2.0-only */
/* What pv/pagefault_cda*.c need and not every supported Xen calls the same. */
#ifndef __X86_PV_CDA_COMPAT_H__
#define __X86_PV_CDA_COMPAT_H__

#include <xen/compile.h>
#include <xen/init.h>

#define CDA_XEN (XEN_VERSION * 100 + XEN_SUBVERSION)

#ifndef asmlinkage
#define asmlinkage
#endif

#if CDA_XEN >= 420
/* arch/x86/traps.c; reached from assembly only until now. */
void do_general_protection(struct cpu_user_regs *regs);
#endif

#if CDA_XEN >= 422
/* Always loaded while a vCPU runs. */
#define vcpu_restore_fpu_lazy(v) ((void)(v))
#endif

#if CDA_XEN >= 421
#include <asm/fsgsbase.h>
#include <asm/idt.h>
#include <asm/irq-vectors.h>
#include <asm/traps.h>
/*
 * The gate was built closed, DPL 0; its DPL 3 is in time for all CPUs, which
 * copy this table.  Not with FRED, where INT does not come by the IDT.
 */
static inline bool __init cda_open_gate(void)
{
    if ( opt_fred )
        return false;

    bsp_idt[CDA_VECTOR].a |= 3UL << 45;

    return true;
}
#else
/* pv_trap_init() did. */
static inline bool __init cda_open_gate(void)
{
    return true;
}
#endif

#endif /* __X86_PV_CDA_COMPAT_H__ */
