/* SPDX-License-Identifier: GPL-2.0-only */
/* Hooks of application checkpointing (pv/pagefault_cda.c). */
#ifndef __X86_PV_CDA_H__
#define __X86_PV_CDA_H__

#include <asm/processor.h>

/* Software bits of an L1e.  Xen's own, stripped from all that guests write. */
#define CDA_L1E_RO    (1UL << 53) /* the guest gave RW, Xen withholds it */
#define CDA_L1E_SEEN  (1UL << 54) /* tracked, read-only by the guest's will */
#define CDA_L1E_NEVER (1UL << 55) /* grant mapping: RW is part of its identity */
#define CDA_L1E_WATCH (1UL << 56) /* RW; Xen cleared D and will look at it */
#define CDA_L1E_TRACKED (CDA_L1E_RO | CDA_L1E_SEEN | CDA_L1E_WATCH)
#define CDA_L1E_BITS  (CDA_L1E_TRACKED | CDA_L1E_NEVER)

#ifdef CONFIG_CDA
extern bool opt_cda;
extern unsigned long cda_l1e_keep;  /* ~CDA_L1E_BITS, or ~0 with cda=off */
extern unsigned long cda_l1e_grant; /* CDA_L1E_NEVER, or 0 with cda=off */

void cda_entry_update(struct domain *d, mfn_t l1mfn, const void *pl1e);
void cda_entry_read(struct domain *d, mfn_t l1mfn, unsigned long offset);
void cda_forget_table(struct domain *d, struct page_info *pg,
                      unsigned long type);
int cda_forked(const struct domain *d, const struct page_info *l4);
bool cda_fixup_fault(unsigned long addr, struct cpu_user_regs *regs);
void cda_domain_destroy(struct domain *d);

/* pagefault_cda_emul.c calls pagefault_cda_store.c: one store to one page. */
struct cda_store;
enum cda_stored {
    CDA_STORED,   /* performed and logged */
    CDA_DIFFERS,  /* cmpxchg: memory holds another value, now in *old */
    CDA_AGAIN,    /* nothing done: the guest's own attempt will succeed */
    CDA_REFUSED,  /* nothing done */
};
enum cda_stored cda_store_write(struct cda_store *store, unsigned long va,
                                const void *data, unsigned int bytes);
enum cda_stored cda_store_cmpxchg(struct cda_store *store, unsigned long va,
                                  void *old, const void *new,
                                  unsigned int bytes);
bool cda_emulate(struct cda_store *store, struct cpu_user_regs *regs);

/*
 * The guest is about to replace the entry at @pl1e in table @l1mfn, whose
 * page_lock() the caller holds.  Almost no entry is any of ours.
 */
static inline void cda_guest_update(struct domain *d, mfn_t l1mfn,
                                    const void *pl1e)
{
    /* The upper half is enough, and one instruction. */
    if ( unlikely(((const volatile unsigned int *)pl1e)[1] &
                  (CDA_L1E_TRACKED >> 32)) )
        cda_entry_update(d, l1mfn, pl1e);
}

/*
 * An instruction of the guest that stores to the entry at @addr in table
 * @l1mfn is about to be emulated.  It may read the entry as well.  The caller
 * holds page_lock().
 */
static inline void cda_guest_read(struct domain *d, mfn_t l1mfn,
                                  unsigned long addr)
{
    if ( unlikely(d->arch.cda) )
        cda_entry_read(d, l1mfn, PAGE_OFFSET(addr));
}

/* A page table loses its type; a new root is about to be validated. */
static inline void cda_table_gone(struct domain *d, struct page_info *pg,
                                  unsigned long type)
{
    if ( unlikely(opt_cda) )
        cda_forget_table(d, pg, type);
}

static inline int cda_table_new(const struct domain *d,
                                const struct page_info *l4)
{
    return unlikely(opt_cda) ? cda_forked(d, l4) : 0;
}

/* A user write to a present page, or Xen's own on the guest's behalf. */
static inline bool cda_may_fix(const struct domain *d, unsigned long addr,
                               unsigned int ec)
{
    return d->arch.cda && addr < (1UL << 47) &&
           (ec & PFEC_arch_mask & ~PFEC_user_mode) ==
           (PFEC_page_present | PFEC_write_access);
}
#else
#define opt_cda false
#define cda_l1e_keep (~0UL)
#define cda_l1e_grant 0UL
#define cda_guest_update(d, mfn, pl1e) ((void)0)
#define cda_guest_read(d, mfn, addr) ((void)0)
#define cda_table_gone(d, pg, type) ((void)0)
#define cda_table_new(d, l4) 0
#endif

#endif /* __X86_PV_CDA_H__ */
