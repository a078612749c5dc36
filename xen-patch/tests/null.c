/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A backend which tracks nothing: what the common part needs of one, and that it
 * needs nothing else.  Only compiled, with shim.h and public.h in front.
 */

/* What other backends are made of. */
#undef _mfn
#undef mfn_x
#undef mfn_eq
#undef INVALID_MFN
#undef __map_domain_page
#undef l1_table_offset
#undef l2_table_offset
#undef l1e_get_intpte
#undef _PAGE_PRESENT
#undef _PAGE_RW
#undef _PAGE_DIRTY
#undef pagetable_get_mfn
#undef get_unsafe
#undef is_pv_domain
#undef is_pv_32bit_domain
#undef guest_kernel_mode
#undef paging_mode_enabled
#undef put_guest
#pragma GCC poison _mfn mfn_x mfn_eq INVALID_MFN __map_domain_page
#pragma GCC poison l1_table_offset l2_table_offset l1e_get_intpte _PAGE_PRESENT
#pragma GCC poison _PAGE_RW _PAGE_DIRTY pagetable_get_mfn get_unsafe
#pragma GCC poison is_pv_domain is_pv_32bit_domain guest_kernel_mode
#pragma GCC poison paging_mode_enabled put_guest mfn_t mfn_to_page page_to_mfn
#pragma GCC poison page_info get_page put_page page_lock page_unlock
#pragma GCC poison map_domain_page l1_pgentry_t l2_pgentry_t guest_table_user
#pragma GCC poison trap_ctxt flush_tlb_mask copy_to_guest_pv copy_from_guest_pv

struct track_domain {
};

struct track_range {
};

struct cda_walk {
    bool changed, refused;
};

bool opt_cda;

#include "../../cda/private.h"
#include "../../cda/heat.h"

static unsigned long caller_root(const struct vcpu *v)
{
    return 0;
}

static bool caller_is_64bit(const struct cpu_user_regs *regs)
{
    return false;
}

static unsigned int copy_in(void *to, unsigned long from, unsigned int bytes)
{
    return bytes;
}

static unsigned int copy_out(unsigned long to, const void *from,
                             unsigned int bytes)
{
    return bytes;
}

static int put_word(unsigned long to, uint64_t value)
{
    return -EFAULT;
}

static bool track_possible(const struct domain *d)
{
    return false;
}

static int track_refused(const struct domain *d)
{
    return -EOPNOTSUPP;
}

static void track_init(struct track_domain *t)
{
}

static unsigned long track_bytes(unsigned int nr_chunks, unsigned int mode)
{
    return 0;
}

static bool track_alloc(struct cda_range *r)
{
    return false;
}

static bool track_free(struct cda_range *r, unsigned int most)
{
    return true;
}

static void track_forget(struct cda_domain *cda, struct cda_range *r)
{
}

static void walk_begin(struct cda_walk *w, struct domain *d,
                       const struct cda_range *r, unsigned int n)
{
    w->changed = w->refused = false;
}

static bool walk_next(struct cda_walk *w, const struct cda_range *r,
                      unsigned int *n)
{
    return false;
}

static void walk_sync(struct cda_walk *w, struct cda_range *r, unsigned int n,
                      unsigned int what, unsigned long *map)
{
    memset(map, 0, CHUNK_PAGES / 8);
}

static void walk_end(struct cda_walk *w)
{
}

static void track_touch(struct cda_range *r, unsigned int n)
{
}

static bool track_take_back(struct domain *d, struct cda_range *r,
                            unsigned int n, const void *heir)
{
    return false;
}

static void track_flush(const struct domain *d)
{
}

#include "../../cda/memory.c"
#include "../../cda/session.c"
#include "../../cda/log.c"
#include "../../cda/cycle.c"
#include "../../cda/range.c"
#include "../../cda/gate.c"
#include "../../cda/control.c"
