/* SPDX-License-Identifier: GPL-2.0-only */
/* The CPU: page walks, TLBs, stores, and Xen's page fault path around them. */
#ifndef TESTS_HW_H
#define TESTS_HW_H

#include "shim.h"

void tlb_flush_vcpu(struct vcpu *v);
void tlb_flush_page(unsigned long va);      /* guest's, all vCPUs */

/* A store of @value at @va by the guest's user: 0, or -EFAULT (SIGSEGV). */
int hw_store(unsigned long va, uint64_t value);
/* Write by Xen on the guest's behalf, other than through copy_to_guest(). */
int hw_xen_store(unsigned long va, uint64_t value);
/* The L1 entry at @va below root @l4, or NULL; does not check permissions. */
unsigned long *walk_l1e(unsigned long l4, unsigned long va);

/* What another vCPU, or another instruction, does first: once. */
struct cda_store;
extern void (*emul_first)(struct cda_store *store, unsigned long va);

extern unsigned long hw_faults, hw_flushes;

void emul_stored(void);

/* May @v store to @va without a look at the entry? */
bool hw_cached_rw(const struct vcpu *v, unsigned long va);
/* P6: no translation allows what its entry does not.  At rest. */
void hw_check_tlbs(void);

/* One in so many pieces of a copy to or from a guest fails; 0: none. */
extern unsigned int copy_fail_rate;

/* Log-dirty mode on or off. */
void hw_log_dirty(bool on);
/* Xen changed entry @slot of table @tab on the guest's behalf. */
void hw_shadow_follow(unsigned long tab, unsigned int slot);

#endif
