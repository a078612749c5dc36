/* SPDX-License-Identifier: GPL-2.0-only */
/* The memory management of Xen as far as its effects on entries go: mm.c. */
#ifndef TESTS_MM_H
#define TESTS_MM_H

#include "shim.h"

#define GUEST_KERNEL_BIT (1UL << 52)

static inline unsigned long *table(unsigned long frame)
{
    return (unsigned long *)phys[frame];
}

static inline unsigned long frame_of(unsigned long e)
{
    return (e & PADDR_MASK) >> PAGE_SHIFT;
}

static inline unsigned long mkpte(unsigned long frame, unsigned long flags)
{
    return frame << PAGE_SHIFT | flags;
}

/* HYPERVISOR_mmu_update, or an emulated write to a page table. */
int xen_set_entry(unsigned long tab, unsigned int slot, unsigned long val,
                  bool preserve_ad);
unsigned long xen_take_entry(unsigned long tab, unsigned int slot);
/* MMUEXT_PIN_Ln_TABLE: 0, or -ERESTART to be called again. */
int xen_pin(unsigned long tab, unsigned int level);
void xen_unpin(unsigned long tab);
/* MMUEXT_NEW_USER_BASEPTR; 0: none. */
void xen_set_user_root(struct vcpu *v, unsigned long tab);
/* GNTTABOP map and unmap of one of the guest's own frames. */
void xen_map_grant(unsigned long tab, unsigned int slot, unsigned long frame);
int xen_unmap_grant(unsigned long tab, unsigned int slot, unsigned long frame);

void mm_reset(void);
/* P3: counts are what the tables imply.  Only while no vCPU is inside. */
void mm_check_counts(void);
extern uint8_t dmap_rw[NR_FRAMES];    /* kernel's own mapping is writable */
extern uint8_t root_refs[NR_FRAMES];  /* vCPUs whose root it is */

#endif
