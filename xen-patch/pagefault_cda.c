/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * arch/x86/pv/pagefault_cda.c
 *
 * Application checkpointing for processes of 64-bit PV guests: tracks which
 * pages of a critical data area (CDA) are dirtied.  ABI: public/cda.h.
 *
 * Design, after "Hypervisor-assisted application checkpointing in virtualized
 * environments" (DSN 2011), with these rules:
 *
 *  - The right to grant write access again lives in the L1 entry itself:
 *    CDA_L1E_RO says "the guest kernel gave RW, Xen withholds it".  All
 *    entries that guests write have the bit stripped, so whatever the kernel
 *    rewrites is the kernel's alone again.
 *  - An entry which Xen made writable again keeps the bit, and has its bit set
 *    in the `dirty` map of a chunk bound to that very L1 table, which stays
 *    when the guest rewrites the entry with what it read there.  Fork,
 *    unregister and revocation thus find every grant of Xen's and take it back
 *    (see take_back()).
 *  - When in doubt the fault goes to the guest kernel, which resolves it.
 *  - clean <=> read-only with CDA_L1E_RO or CDA_L1E_SEEN.  Who changes that
 *    tells the chunk: the fault handler, or cda_guest_update() before each
 *    guest update of such an entry.  A table that is replaced as a whole is
 *    noticed by comparing the L2 entry.
 *  - With Emulxen an entry stays read-only.  Xen performs each store by the
 *    same authority, with a type reference for as long as it takes.
 *  - A page may instead be left writable and be watched through its D bit
 *    (CDA_L1E_WATCH): all of them with Scanxen, with Autoxen those that were
 *    dirty in most cycles.  Its RW counts as granted by Xen, as it may have
 *    been once.
 *
 * A chunk is the 2 MiB of address space below one L1 table.
 *
 * This file tracks pages.  Sessions, ranges, cycles, logs, the operations of
 * the gate and those of Dom0 are the common part, see cda/private.h.
 *
 * Locks, outermost first: session->lock (only ever tried by guests) >
 * page_lock() of one L1 table > hash_lock, words->lock; cda->lock nests in none
 * of these but session->lock.  Lookups run under RCU.
 */

#include <xen/compiler.h>
#include <xen/domain_page.h>
#include <xen/mm.h>
#include <xen/nospec.h>
#include <xen/param.h>
#include <xen/rcupdate.h>
#include <xen/sched.h>

#include <asm/flushtlb.h>
#include <asm/pv/cda.h>
#include <asm/pv/cda-compat.h>
#include <asm/shadow.h>
#include <asm/traps.h>

#define CHUNK_HASH        256

/* Of a domain: chunks by the L1 table they are bound to. */
struct track_domain {
    spinlock_t hash_lock;
    struct cda_chunk *chunk[CHUNK_HASH];
};

/* Of a range, both in pieces: alloc_pieces(). */
struct track_range {
    unsigned long **want;         /* expected L2 entries, one a chunk */
    struct cda_chunk **chunk;
};

struct cda_walk {
    struct domain *d;
    unsigned int first;           /* chunk where it began */
    bool changed, refused;        /* see walk_sync() */
    struct page_info *l2pg;       /* of the GiB where it is, or NULL */
    const l2_pgentry_t *l2t;
    unsigned long l2e;            /* of the chunk where walk_next() stopped */
};

#include "../cda/private.h"
#include "../cda/heat.h"

#if CHUNK_SHIFT != L2_PAGETABLE_SHIFT
#error "a chunk is what one L1 table maps"
#endif
#if CHUNK_HASH != 1 << HASH_BITS
#error "hash_of() is for another number of chains"
#endif

bool __read_mostly opt_cda;
boolean_param("cda", opt_cda);

unsigned long __read_mostly cda_l1e_keep = ~0UL;
unsigned long __read_mostly cda_l1e_grant;

/* _PAGE_GUEST_KERNEL as it stands in an entry. */
#define L1E_GUEST_KERNEL  (1UL << 52)

/* The part of an L2 entry that decides where it leads and who may write. */
#define L2E_MASK          ((PADDR_MASK & PAGE_MASK) | _PAGE_PRESENT | \
                           _PAGE_RW | _PAGE_USER | _PAGE_PSE)
#define L2E_FLAGS         (_PAGE_PRESENT | _PAGE_RW | _PAGE_USER)
/* In chunk->want, outside L2E_MASK: makes the comparison fail. */
#define WANT_TOUCHED      _AC(0x800, UL)

/* Chunks, and expected L2 entries, in a piece of memory: alloc_pieces(). */
#define CHUNKS_SHIFT      5
#define WANTS_SHIFT       9

/* 128 bytes, as the fault path multiplies by that. */
struct cda_chunk {
    unsigned long dirty[BITS_TO_LONGS(CHUNK_PAGES)];
    mfn_t l1;                     /* bound table, or INVALID_MFN */
    uint16_t lo, hi;              /* slots [lo, hi) belong to the range */
    unsigned long *want;          /* its place in track.want */
    unsigned long va;             /* where it begins */
    struct cda_range *range;
    struct cda_heat *heat;        /* NULL: every page faults */
    struct cda_chunk *next, **pprev; /* hash chain by l1 */
};

/*
 * Chunks by the L1 table they are bound to.
 */

static unsigned int hash_of_mfn(mfn_t mfn)
{
    return hash_of(mfn_x(mfn));
}

static void cda_bind(struct cda_domain *cda, struct cda_chunk *c, mfn_t l1)
{
    struct cda_chunk **head = &cda->track.chunk[hash_of_mfn(l1)];

    spin_lock(&cda->track.hash_lock);
    ASSERT(mfn_eq(c->l1, INVALID_MFN));
    c->l1 = l1;
    c->next = *head;
    if ( c->next )
        c->next->pprev = &c->next;
    c->pprev = head;
    *head = c;
    spin_unlock(&cda->track.hash_lock);
}

/*
 * Under hash_lock.  Not by a walk along the chain: the end of a session does
 * this for all of its chunks, and a guest may choose tables which collide.
 */
static void cda_unhash(struct cda_chunk *c)
{
    *c->pprev = c->next;
    if ( c->next )
        c->next->pprev = c->pprev;
    c->l1 = INVALID_MFN;
}

static mfn_t cda_unbind(struct cda_domain *cda, struct cda_chunk *c)
{
    mfn_t l1;

    spin_lock(&cda->track.hash_lock);
    l1 = c->l1;
    if ( !mfn_eq(l1, INVALID_MFN) )
        cda_unhash(c);
    spin_unlock(&cda->track.hash_lock);

    return l1;
}

static always_inline unsigned long *want_at(const struct cda_range *r,
                                            unsigned int n)
{
    return &r->track.want[n >> WANTS_SHIFT][n & ((1u << WANTS_SHIFT) - 1)];
}

static always_inline struct cda_chunk *chunk_at(const struct cda_range *r,
                                                unsigned int n)
{
    return &r->track.chunk[n >> CHUNKS_SHIFT][n & ((1u << CHUNKS_SHIFT) - 1)];
}

/* The chunk learns that the page is to be listed; @guest: who changes it. */
static void note_entry(struct domain *d, mfn_t l1mfn, const void *pl1e,
                       bool guest)
{
    struct cda_domain *cda = d->arch.cda;
    unsigned long l1e = *(const volatile unsigned long *)pl1e;
    unsigned int slot = PAGE_OFFSET(pl1e) / sizeof(l1_pgentry_t);
    struct cda_chunk *c;

    if ( !cda || !(l1e & _PAGE_PRESENT) )
        return;

    spin_lock(&cda->track.hash_lock);
    for ( c = cda->track.chunk[hash_of_mfn(l1mfn)]; c; c = c->next )
        if ( mfn_eq(c->l1, l1mfn) && slot >= c->lo && slot < c->hi )
        {
            set_bit(slot, c->dirty);
            set_bit(__builtin_ctzl(WANT_TOUCHED), c->want);
            if ( guest )
                COUNT(c->range->session, guest_updates);
        }
    spin_unlock(&cda->track.hash_lock);
}

/*
 * See cda_guest_update().  Nothing changes for the guest; only the chunk
 * learns that the entry's bits will be gone.
 */
void cda_entry_update(struct domain *d, mfn_t l1mfn, const void *pl1e)
{
    note_entry(d, l1mfn, pl1e, true);
}

/* Table @l1mfn stops being one: what it held under our eyes is unknown. */
static void l1_gone(struct cda_domain *cda, mfn_t l1mfn)
{
    struct cda_chunk *c, *next;

    spin_lock(&cda->track.hash_lock);
    for ( c = cda->track.chunk[hash_of_mfn(l1mfn)]; c; c = next )
    {
        next = c->next;
        if ( mfn_eq(c->l1, l1mfn) )
        {
            cda_unhash(c);
            ACCESS_ONCE(*c->want) = WANT_TOUCHED;
        }
    }
    spin_unlock(&cda->track.hash_lock);
}

/*
 * Who calls, and its memory.
 */

static unsigned long caller_root(const struct vcpu *v)
{
    return mfn_x(pagetable_get_mfn(v->arch.guest_table_user));
}

static bool caller_is_64bit(const struct cpu_user_regs *regs)
{
    unsigned int ar;
    bool valid;

    /* The guest's own GDT and LDT are loaded, as for its INT. */
    asm ( "lar %[sel], %[ar]"
          : [ar] "=r" (ar), "=@ccz" (valid)
          : [sel] "r" ((unsigned int)regs->cs) );

    return valid && (ar & _SEGMENT_L);
}

static unsigned int copy_in(void *to, unsigned long from, unsigned int bytes)
{
    return copy_from_guest_pv(to, (const void __user *)from, bytes);
}

static unsigned int copy_out(unsigned long to, const void *from,
                             unsigned int bytes)
{
    return copy_to_guest_pv((void __user *)to, from, bytes);
}

static always_inline int put_word(unsigned long to, uint64_t value)
{
    return put_guest(value, (uint64_t __user *)to);
}

static bool track_possible(const struct domain *d)
{
    return is_pv_domain(d) && !is_pv_32bit_domain(d);
}

/* In log-dirty mode a guest runs on shadows of its tables. */
static int track_refused(const struct domain *d)
{
    return paging_mode_enabled(d) ? -EOPNOTSUPP : 0;
}

static void track_init(struct track_domain *t)
{
    spin_lock_init(&t->hash_lock);
}

/* Plain FLUSH_TLB reaches global entries as well. */
static void track_flush(const struct domain *d)
{
    flush_tlb_mask(d->dirty_cpumask);
}

/*
 * Reaching tables.
 */

/*
 * get_page(), page_lock() and their like with the common case inline, as the
 * fault path is made of little else.  Debug builds keep Xen's own, which
 * check more.
 */
#ifdef NDEBUG
#define INLINED true
#else
#define INLINED false
#endif

#define L1_TYPE           (PGT_l1_page_table | PGT_validated)
#define TYPE_STATE        (PGT_type_mask | PGT_validated | PGT_partial | \
                           PGT_locked)

static always_inline bool ref_frame(struct page_info *pg,
                                    const struct domain *d)
{
    unsigned long x = ACCESS_ONCE(pg->count_info);

    if ( !INLINED || unlikely(((x + 2) & PGC_count_mask) <= 2) ||
         unlikely(cmpxchg(&pg->count_info, x, x + 1) != x) )
        return get_page(pg, d);
    if ( likely(page_get_owner(pg) == d) )
        return true;
    put_page(pg);

    return false;
}

static always_inline void unref_frame(struct page_info *pg)
{
    unsigned long x = ACCESS_ONCE(pg->count_info);

    if ( !INLINED || unlikely((x & PGC_count_mask) < 2) ||
         unlikely(cmpxchg(&pg->count_info, x, x - 1) != x) )
        put_page(pg);
}

/* Is the frame mapped all the time? */
static always_inline bool is_mapped(mfn_t mfn)
{
#ifdef NDEBUG
    return likely(mfn_x(mfn) <= PFN_DOWN(__pa(HYPERVISOR_VIRT_END - 1)));
#else
    return false;
#endif
}

static always_inline void *map_table(mfn_t mfn)
{
    return is_mapped(mfn) ? mfn_to_virt(mfn_x(mfn)) : map_domain_page(mfn);
}

static always_inline void unmap_table(const void *table)
{
#ifdef NDEBUG
    if ( likely((unsigned long)table >= DIRECTMAP_VIRT_START) )
        return;
#endif
    unmap_domain_page(table);
}

/*
 * References and locks frame @mfn, which exists, if it is a validated L1
 * table of @d.
 */
static always_inline l1_pgentry_t *lock_l1(struct domain *d, mfn_t mfn)
{
    struct page_info *pg = mfn_to_page(mfn);
    unsigned long x;

    if ( unlikely(!ref_frame(pg, d)) )
        return NULL;

    x = ACCESS_ONCE(pg->u.inuse.type_info);
    if ( INLINED && likely((x & TYPE_STATE) == L1_TYPE) &&
         likely(((x + 1) & PGT_count_mask) > 1) &&
         likely(cmpxchg(&pg->u.inuse.type_info, x,
                        x + (1 | PGT_locked)) == x) )
    {
        /* As page_lock() does. */
        block_lock_speculation();
        return map_table(mfn);
    }

    if ( likely(page_lock(pg)) )
    {
        if ( likely((pg->u.inuse.type_info & PGT_type_mask) ==
                    PGT_l1_page_table) )
            return map_table(mfn);
        page_unlock(pg);
    }
    put_page(pg);

    return NULL;
}

static always_inline void unlock_l1(const l1_pgentry_t *pl1e, mfn_t mfn)
{
    struct page_info *pg = mfn_to_page(mfn);
    unsigned long x = ACCESS_ONCE(pg->u.inuse.type_info);

    if ( !is_mapped(mfn) )
        unmap_domain_page(pl1e);
    if ( !INLINED || unlikely(cmpxchg(&pg->u.inuse.type_info, x,
                                      x - (1 | PGT_locked)) != x) )
        page_unlock(pg);
    unref_frame(pg);
}

/*
 * The L2 table which maps the GiB of @va in the current address space, with
 * a reference, or NULL if the way there is closed to user writes.
 */
static struct page_info *get_l2(struct domain *d, unsigned long va)
{
    l4_pgentry_t l4e;
    l3_pgentry_t l3e;
    struct page_info *pg;

    if ( get_unsafe(l4e, &__linear_l4_table[l4_linear_offset(va)]) ||
         (l4e_get_flags(l4e) & L2E_FLAGS) != L2E_FLAGS ||
         get_unsafe(l3e, &__linear_l3_table[l3_linear_offset(va)]) ||
         (l3e_get_flags(l3e) & (L2E_FLAGS | _PAGE_PSE)) != L2E_FLAGS )
        return NULL;

    /* What a validated entry leads to exists. */
    pg = l3e_get_page(l3e);

    return ref_frame(pg, d) ? pg : NULL;
}

/* The L2 entry for @va under L2E_MASK, 0 if user writes do not get there. */
static unsigned long live_l2e(unsigned long va)
{
    l4_pgentry_t l4e;
    l3_pgentry_t l3e;
    l2_pgentry_t l2e;

    if ( get_unsafe(l4e, &__linear_l4_table[l4_linear_offset(va)]) ||
         (l4e_get_flags(l4e) & L2E_FLAGS) != L2E_FLAGS ||
         get_unsafe(l3e, &__linear_l3_table[l3_linear_offset(va)]) ||
         (l3e_get_flags(l3e) & (L2E_FLAGS | _PAGE_PSE)) != L2E_FLAGS ||
         get_unsafe(l2e, &__linear_l2_table[l2_linear_offset(va)]) )
        return 0;

    return l2e_get_intpte(l2e) & L2E_MASK;
}

static bool l2e_leads(unsigned long l2e)
{
    return (l2e & (L2E_FLAGS | _PAGE_PSE)) == L2E_FLAGS;
}

static mfn_t l2e_mfn(unsigned long l2e)
{
    return _mfn((l2e & PADDR_MASK) >> PAGE_SHIFT);
}

/*
 * Single entries.  All under page_lock() of their table: besides us only the
 * CPU changes them then, and only A and D.
 */

/*
 * May Xen withhold and give back RW in this entry?  Only then does the entry
 * hold a type reference of the kind put_page_type() drops: foreign and dom_io
 * frames and grants do not.
 */
static always_inline struct page_info *trackable(const struct domain *d,
                                                 unsigned long l1e)
{
    mfn_t mfn = l2e_mfn(l1e);
    struct page_info *pg = mfn_to_page(mfn);

    if ( (l1e & (CDA_L1E_NEVER | L1E_GUEST_KERNEL | _PAGE_USER)) !=
         _PAGE_USER ||
         !mfn_valid(mfn) || page_get_owner(pg) != d || is_special_page(pg) )
        return NULL;

    return pg;
}

/*
 * get_page_type() and put_page_type() for writable pages, with their common
 * case inline: other references exist, so no type changes hands.
 */
#define WRITABLE          (PGT_writable_page | PGT_validated)

static always_inline bool get_writable(struct page_info *pg)
{
    unsigned long x = ACCESS_ONCE(pg->u.inuse.type_info);

    if ( likely((x & TYPE_STATE) == WRITABLE) &&
         likely(((x + 1) & PGT_count_mask) > 1) &&
         likely(cmpxchg(&pg->u.inuse.type_info, x, x + 1) == x) )
        return true;

    return get_page_type(pg, PGT_writable_page);
}

static always_inline void put_writable(struct page_info *pg)
{
    unsigned long x = ACCESS_ONCE(pg->u.inuse.type_info);

    if ( likely((x & TYPE_STATE) == WRITABLE) &&
         likely((x & PGT_count_mask) > 1) &&
         likely(cmpxchg(&pg->u.inuse.type_info, x, x - 1) == x) )
        return;

    put_page_type(pg);
}

enum protect { PROTECTED, WATCHED, UNKNOWN, REFUSED };

/*
 * From now on a change to this page is noticed.  An entry with RW which still
 * carries a bit of ours was looked at before.  With @watch a page which the
 * guest may write stays so, and D tells.  @bound: the table was bound before,
 * so that authority in it is ours.
 */
static always_inline enum protect protect_entry(const struct domain *d,
                                                l1_pgentry_t *pl1e, bool watch,
                                                bool bound)
{
    unsigned long *p = &l1e_get_intpte(*pl1e), old = ACCESS_ONCE(*p), new;
    struct page_info *pg = NULL;

    for ( ; ; )
    {
        unsigned long seen;

        if ( !(old & _PAGE_PRESENT) )
            return UNKNOWN;

        if ( unlikely(!(old & _PAGE_RW)) )
        {
            /* cda_entry_read() came before us. */
            if ( bound && (old & CDA_L1E_RO) )
                return PROTECTED;
            if ( !trackable(d, old) )
                return UNKNOWN;

            /* Authority left over from elsewhere is not ours to use. */
            new = (old & ~(CDA_L1E_RO | CDA_L1E_WATCH)) | CDA_L1E_SEEN;
            if ( new == old )
                return PROTECTED;
        }
        else
        {
            if ( likely(old & (CDA_L1E_RO | CDA_L1E_WATCH)) )
                pg = mfn_to_page(l2e_mfn(old));
            else if ( (pg = trackable(d, old)) == NULL )
                return REFUSED;

            if ( watch )
            {
                new = (old & ~(CDA_L1E_RO | CDA_L1E_SEEN | _PAGE_DIRTY)) |
                      CDA_L1E_WATCH;
                if ( new == old )
                    return WATCHED;
            }
            else
                /*
                 * D makes kernels which skip clean read-only entries when they
                 * want a page stable (KSM before Linux 5.19) rewrite this one.
                 */
                new = (old & ~(_PAGE_RW | CDA_L1E_SEEN | CDA_L1E_WATCH)) |
                      CDA_L1E_RO | _PAGE_DIRTY;
        }

        seen = cmpxchg(p, old, new);
        if ( likely(seen == old) )
            break;
        old = seen;
    }

    if ( !(old & _PAGE_RW) )
        return PROTECTED;
    if ( watch )
        return WATCHED;
    put_writable(pg);

    return PROTECTED;
}

/*
 * Protects a watched page whose entry is @old, with D clear.  False if it is
 * not any more: a write which came in between must be found in D.
 */
static bool cda_cool(l1_pgentry_t *pl1e, unsigned long old)
{
    unsigned long new = (old & ~(_PAGE_RW | CDA_L1E_WATCH)) | CDA_L1E_RO |
                        _PAGE_DIRTY;

    if ( cmpxchg(&l1e_get_intpte(*pl1e), old, new) != old )
        return false;
    put_writable(mfn_to_page(l2e_mfn(old)));

    return true;
}

/*
 * Takes back what Xen granted or could grant in this entry.  True if D was all
 * that knew of a change.
 */
static bool take_back_entry(const struct domain *d, l1_pgentry_t *pl1e,
                            bool granted, unsigned long mark)
{
    unsigned long *p = &l1e_get_intpte(*pl1e), old = ACCESS_ONCE(*p), new;
    struct page_info *pg = NULL;

    for ( ; ; )
    {
        unsigned long seen;

        if ( !(old & _PAGE_PRESENT) )
            return false;

        if ( old & _PAGE_RW )
        {
            if ( !(granted || (old & (CDA_L1E_RO | CDA_L1E_WATCH))) ||
                 !(pg = trackable(d, old)) )
                return false;
            new = (old & ~(_PAGE_RW | CDA_L1E_TRACKED)) | mark | _PAGE_DIRTY;
        }
        else if ( old & CDA_L1E_TRACKED )
            new = (old & ~CDA_L1E_TRACKED) | mark;
        else
            return false;

        seen = cmpxchg(p, old, new);
        if ( likely(seen == old) )
            break;
        old = seen;
    }

    if ( old & _PAGE_RW )
        put_writable(pg);

    return (old & CDA_L1E_WATCH) && (old & _PAGE_DIRTY);
}

/*
 * Removes all authority which chunk @c gave in its table.  Afterwards its
 * pages are writable only if the guest kernel says so again: it sees a
 * write fault on a page which it believes, or not, to be writable.
 * Callers flush TLBs before anything depends on it.
 */
static void take_back_slots(const struct domain *d, struct cda_chunk *c,
                            l1_pgentry_t *pl1e, unsigned long mark)
{
    unsigned int i;

    for ( i = c->lo; i < c->hi; ++i )
        if ( take_back_entry(d, &pl1e[i], test_bit(i, c->dirty), mark) )
            set_bit(i, c->dirty);
}

static void take_back_chunk(struct domain *d, struct cda_chunk *c,
                            unsigned long mark)
{
    l1_pgentry_t *pl1e;
    mfn_t l1 = c->l1;

    barrier(); /* one look, until page_lock() allows a second */
    if ( mfn_eq(l1, INVALID_MFN) || (pl1e = lock_l1(d, l1)) == NULL )
        return;

    /* Another chunk may have taken the table over, entries and all. */
    if ( mfn_eq(c->l1, l1) )
    {
        take_back_slots(d, c, pl1e, mark);
        /* In log-dirty mode the guest runs on a copy of this table. */
        if ( unlikely(paging_mode_enabled(d)) )
            shadow_remove_all_shadows(d, l1);
    }

    unlock_l1(pl1e, l1);
}

/*
 * Any slot of a table belongs to one chunk at most, or two would rely on the
 * same bits.  Table @pl1e, which is locked, moved to chunk @c: whoever had
 * these slots before gives back what it granted and is "replaced" next time.
 */
static void cda_evict(struct cda_domain *cda, const struct domain *d,
                      const struct cda_chunk *c, l1_pgentry_t *pl1e, mfn_t l1)
{
    struct cda_chunk *o;

    for ( ; ; )
    {
        spin_lock(&cda->track.hash_lock);
        for ( o = cda->track.chunk[hash_of_mfn(l1)]; o; o = o->next )
            if ( o != c && mfn_eq(o->l1, l1) && o->lo < c->hi && c->lo < o->hi )
                break;
        spin_unlock(&cda->track.hash_lock);

        if ( !o )
            break;

        /* In this order: who finds it unbound may rely on its slots. */
        take_back_slots(d, o, pl1e, 0);
        cda_unbind(cda, o);
        ACCESS_ONCE(*o->want) = WANT_TOUCHED;
    }
}

static bool is_granted(unsigned long l1e)
{
    return (l1e & (_PAGE_PRESENT | _PAGE_RW)) == (_PAGE_PRESENT | _PAGE_RW) &&
           (l1e & (CDA_L1E_RO | CDA_L1E_WATCH));
}

/*
 * Withholds RW before the cycle ends.  Nothing is lost: what was written is
 * listed, and the next write grants again.
 */
static void withhold(struct domain *d, mfn_t l1mfn, l1_pgentry_t *pl1e)
{
    unsigned long l1e;

    while ( is_granted(l1e = ACCESS_ONCE(l1e_get_intpte(*pl1e))) )
    {
        /* A watched page which nobody wrote is not listed. */
        if ( !(l1e & (CDA_L1E_RO | _PAGE_DIRTY)) )
            cda_cool(pl1e, l1e);
        else
        {
            note_entry(d, l1mfn, pl1e, false);
            protect_entry(d, pl1e, false, true);
        }
    }
}

/*
 * See cda_guest_read().  Linux takes an entry away by xchg, when it moves a page
 * to another frame for instance, and later puts back whether it was writable.
 * It does so without the lock that a fork holds: RW which Xen granted must not
 * get into its hands, as cda_table_new() would not find it there.
 *
 * Nor may a CPU write through an entry which the guest reads as read-only.  A
 * flush for each would be dear where it goes on to the next entry, as fork and
 * munmap do: so RW of the whole table is withheld with this one.
 */
void cda_entry_read(struct domain *d, mfn_t l1mfn, unsigned long offset)
{
    l1_pgentry_t *pl1e = map_table(l1mfn);
    l1_pgentry_t *entry = &pl1e[offset / sizeof(*pl1e)];
    unsigned int i;

    if ( unlikely(is_granted(ACCESS_ONCE(l1e_get_intpte(*entry)))) )
    {
        for ( i = 0; i < CHUNK_PAGES; ++i )
            withhold(d, l1mfn, &pl1e[i]);
        flush_tlb_mask(d->dirty_cpumask);
    }
    unmap_table(pl1e);
}

static unsigned long entry_in(const struct page_info *pg, unsigned int slot)
{
    const unsigned long *table = __map_domain_page(pg);
    unsigned long e = ACCESS_ONCE(table[slot]);

    unmap_domain_page(table);

    return e;
}

/*
 * May the address space which the new root @l4 begins have got entries from
 * the table of chunk @c of this one?  Not if the table is where the chunk says,
 * and there is nothing in its place there: a fork copies entries to the address
 * at which it finds them.  An entry that is not present counts, as it may lead
 * to the same page.
 *
 * The tables are not validated: what is read there decides nothing else.  An L3
 * table which is came with the other root of that address space (Linux has two,
 * for the kernel and for the user), and was looked at then.
 */
static bool may_share(const struct domain *d, const struct page_info *l4,
                      const struct cda_chunk *c)
{
    unsigned long va = c->va;
    const unsigned int slot[] = { l4_table_offset(va), l3_table_offset(va),
                                  l2_table_offset(va) };
    unsigned long l2e = live_l2e(va), e;
    struct page_info *held = NULL, *pg;
    const unsigned long *table;
    unsigned int i;
    bool found = false;

    if ( !l2e_leads(l2e) || !mfn_eq(l2e_mfn(l2e), c->l1) )
        return true;

    for ( i = 0; i < ARRAY_SIZE(slot); ++i )
    {
        e = entry_in(held ?: l4, slot[i]);
        if ( held )
            put_page(held);
        if ( !(e & _PAGE_PRESENT) )
            return false;

        pg = mfn_to_page(l2e_mfn(e));
        if ( !mfn_valid(l2e_mfn(e)) || !get_page(pg, d) )
            return true;
        if ( !i && (pg->u.inuse.type_info & (PGT_type_mask | PGT_validated)) ==
                   (PGT_l3_page_table | PGT_validated) )
        {
            put_page(pg);
            return false;
        }
        held = pg;
    }

    table = __map_domain_page(held);
    for ( i = c->lo; i < c->hi && !found; ++i )
        found = ACCESS_ONCE(table[i]);
    unmap_domain_page(table);
    put_page(held);

    return found;
}

/* A page table loses its type, under whatever locks: no allocation here. */
void cda_forget_table(struct domain *d, struct page_info *pg,
                      unsigned long type)
{
    struct cda_domain *cda = d ? d->arch.cda : NULL;
    mfn_t mfn = page_to_mfn(pg);

    if ( !d || !is_pv_domain(d) || !cda ||
         !cda->used_sessions )
        return;

    switch ( type & PGT_type_mask )
    {
        struct cda_session *s;

    case PGT_l1_page_table:
        l1_gone(cda, mfn);
        break;

    case PGT_l4_page_table:
        /* No vCPU has it loaded. */
        ASSERT(!(pg->u.inuse.type_info & PGT_validated));
        spin_lock(&cda->lock);
        s = find_session(cda, mfn_x(mfn));
        if ( s )
            unlink_session(cda, s, true);
        spin_unlock(&cda->lock);
        break;
    }
}

/*
 * A new L4 is about to be validated.  Linux does so for a fork's child at the
 * end of dup_mmap(), in the parent's context: by then entries which it took
 * for read-only may have been shared with the child without being rewritten.
 * Write access that Xen granted or could grant in the parent would be access
 * to the child's pages (or, through KSM, to a stranger's), so it ends here.
 * Exec, after vfork() for instance, begins an address space in the parent's
 * context as well: with nothing of the parent's in it.
 * Returns 0, or -EINTR to be called again.
 */
int cda_forked(const struct domain *d, const struct page_info *l4)
{
    struct vcpu *curr = current;
    struct cda_domain *cda;
    struct cda_session *s;
    int rc = 0;

    if ( curr->domain != d || !is_pv_domain(d) ||
         (cda = d->arch.cda) == NULL || !cda->used_sessions )
        return 0;

    rcu_read_lock(&cda_rcu);
    s = find_session(cda, caller_root(curr));
    /*
     * Not under s->lock, which another vCPU may hold for long: entries change
     * under page_lock() only, and what that vCPU protects anew was given by the
     * kernel after it copied its entries.
     */
    if ( s && s->ranges && !take_back(s, curr->domain, l4) )
        rc = -EINTR;
    rcu_read_unlock(&cda_rcu);

    return rc;
}

/*
 * Faults.
 */

/*
 * Grants RW again in a CDA_L1E_RO entry, which keeps the bit: as long as it is
 * there, RW is what Xen granted.  False: leave it to the guest.
 */
static always_inline bool regrant(l1_pgentry_t *pl1e, unsigned long old)
{
    unsigned long *p = &l1e_get_intpte(*pl1e);
    struct page_info *pg = mfn_to_page(l2e_mfn(old));

    /* The entry holds a general reference; the type may have moved on. */
    if ( unlikely(!get_writable(pg)) )
        return false;

    for ( ; ; )
    {
        unsigned long seen = cmpxchg(p, old, old | _PAGE_RW | _PAGE_ACCESSED |
                                             _PAGE_DIRTY);

        if ( likely(seen == old) )
            return true;
        ASSERT(!((seen ^ old) & ~(unsigned long)(_PAGE_ACCESSED |
                                                 _PAGE_DIRTY)));
        old = seen;
    }
}

/*
 * Xen's own access may come with locks held: do not wait for the L1 table's
 * for ever.  The access then fails like one to any read-only page.
 */
static noinline bool l1_stays_locked(mfn_t l1)
{
    const struct page_info *pg = mfn_to_page(l1);
    unsigned int tries = 1000;

    while ( ACCESS_ONCE(pg->u.inuse.type_info) & PGT_locked )
    {
        if ( !tries-- )
            return true;
        cpu_relax();
    }

    return false;
}

/*
 * Writable: another vCPU was first, and the fault dropped our stale TLB
 * entry.  Unless the way to table @l1 forbids writes, or leads elsewhere.
 */
static noinline bool stale_tlb(struct cda_session *s, unsigned long addr,
                               unsigned long l1e, mfn_t l1)
{
    unsigned long l2e;

    if ( (l1e & (_PAGE_PRESENT | _PAGE_RW)) != (_PAGE_PRESENT | _PAGE_RW) )
        return false;

    l2e = live_l2e(addr);
    if ( !l2e_leads(l2e) || !mfn_eq(l2e_mfn(l2e), l1) )
        return false;
    COUNT(s, faults_spurious);

    return true;
}

#include "pagefault_cda_store.c"

/* Nothing runs softirqs below the fault handler, so RCU needs no counting. */
#ifdef NDEBUG
#define fault_read_lock()   barrier()
#define fault_read_unlock() barrier()
#else
#define fault_read_lock()   rcu_read_lock(&cda_rcu)
#define fault_read_unlock() rcu_read_unlock(&cda_rcu)
#endif

/* A write of the guest's (@guest: its user or its kernel), or Xen's for it. */
static always_inline bool fixup(unsigned long addr, struct cpu_user_regs *regs,
                                bool guest)
{
    struct vcpu *curr = current;
    struct domain *d = curr->domain;
    struct cda_session *s;
    struct cda_range *r;
    struct cda_chunk *c;
    unsigned long l1e;
    unsigned int n, slot;
    l1_pgentry_t *pl1e;
    bool fixed = false;
    mfn_t l1;

    fault_read_lock();

    s = find_session(d->arch.cda, caller_root(curr));
    if ( !s || (r = find_range(s, addr)) == NULL )
        goto out;

    n = array_index_nospec((addr - r->base) >> CHUNK_SHIFT, r->nr_chunks);
    c = chunk_at(r, n);
    l1 = c->l1;
    barrier(); /* one look, until page_lock() allows a second */
    if ( unlikely(mfn_eq(l1, INVALID_MFN)) )
        goto forward;

    if ( !guest )
    {
        if ( l1_stays_locked(l1) )
            goto out;
    }
    else if ( unlikely(r->words) && cda_emulate_fault(s, r, n, addr, regs) )
    {
        fixed = true;
        goto out;
    }

    pl1e = lock_l1(d, l1);
    if ( unlikely(!pl1e) )
        goto forward;

    slot = l1_table_offset(addr);
    l1e = ACCESS_ONCE(l1e_get_intpte(pl1e[slot]));
    if ( likely((l1e & (_PAGE_PRESENT | _PAGE_RW | CDA_L1E_RO)) ==
                (_PAGE_PRESENT | CDA_L1E_RO)) &&
         likely(mfn_eq(c->l1, l1)) &&
         !(s->forward | s->revoked) && !unlikely(paging_mode_enabled(d)) )
    {
        /*
         * Marked first: who writes through the entry as soon as it allows
         * that, and then commits, must find the chunk touched.
         */
        set_bit(slot, c->dirty);
        set_bit(__builtin_ctzl(WANT_TOUCHED), c->want);

        /*
         * Whether this table is the one in use at @addr does not matter for
         * the right to write.  If it is not, we are back here at once.
         */
        fixed = regrant(&pl1e[slot], l1e);
        if ( likely(fixed) )
        {
            unlock_l1(pl1e, l1);
            COUNT(s, faults_fixed);
            if ( !guest )
                COUNT(s, faults_xen);
            goto out;
        }
    }
    else
        fixed = stale_tlb(s, addr, l1e, l1);
    unlock_l1(pl1e, l1);

    if ( fixed )
        goto out;

 forward:
    COUNT(s, faults_forwarded);
 out:
    fault_read_unlock();

    return fixed;
}

/* Not in interrupt context, or with interrupts disabled. */
static noinline bool fixup_xen(unsigned long addr, struct cpu_user_regs *regs)
{
    if ( in_irq() || !(regs->eflags & X86_EFLAGS_IF) )
        return false;

    return fixup(addr, regs, false);
}

/*
 * Write to a present page below 2^47, see cda_may_fix().  True if the access
 * shall be tried again.
 */
bool cda_fixup_fault(unsigned long addr, struct cpu_user_regs *regs)
{
    return likely(regs->error_code & PFEC_user_mode)
           ? fixup(addr, regs, true) : fixup_xen(addr, regs);
}

#include "pagefault_cda_cycle.c"

/*
 * The common part.
 */

#include "../cda/memory.c"
#include "../cda/session.c"
#include "../cda/log.c"
#include "../cda/cycle.c"
#include "../cda/range.c"
#include "../cda/gate.c"
#include "../cda/control.c"

/*
 * The gate of PV guests.
 */

/* As if the gate had DPL 0. */
static noinline void impersonate(struct cpu_user_regs *regs)
{
    regs->rip -= 2;
    regs->eflags |= X86_EFLAGS_RF;
    regs->error_code = (CDA_VECTOR << 3) | X86_XEC_IDT;
    regs->entry_vector = X86_EXC_GP;
    do_general_protection(regs);
}

static noinline void serve(struct vcpu *curr, struct cpu_user_regs *regs)
{
    if ( unlikely(cda_serve(curr, regs)) )
        regs->rip -= 2;
}

void asmlinkage do_entry_int84(struct cpu_user_regs *regs)
{
    struct vcpu *curr = current;

    /*
     * A kernel that installed the vector for itself goes first.  Domains which
     * Dom0 did not admit have no gate; with cda=off there are no others.  In
     * 64-bit guests kernel and processes are both in ring 3.
     */
    if ( unlikely(!ACCESS_ONCE(curr->domain->arch.cda)) ||
         is_pv_32bit_vcpu(curr) ||
         (curr->arch.flags & TF_kernel_mode) ||
         curr->arch.pv.trap_ctxt[CDA_VECTOR].address ||
         pagetable_is_null(curr->arch.guest_table_user) )
        impersonate(regs);
    else if ( regs->rax == CDA_OP_version )
        regs->rax = op_version(regs);
    else
        serve(curr, regs);
}

static int __init cf_check cda_init(void)
{
    if ( opt_cda && !cda_open_gate() )
    {
        printk(XENLOG_WARNING "CDA: no gate with FRED (boot with fred=no); off\n");
        opt_cda = false;
    }

    if ( opt_cda )
    {
        init_domain(&not_admitted);
        cda_l1e_keep = ~CDA_L1E_BITS;
        cda_l1e_grant = CDA_L1E_NEVER;
        printk("CDA: application checkpointing through int %#x enabled\n",
               CDA_VECTOR);
    }

    return 0;
}
presmp_initcall(cda_init);

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * tab-width: 4
 * indent-tabs-mode: nil
 * End:
 */
