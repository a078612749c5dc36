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
 * Locks, outermost first: session->lock (only ever tried by guests) >
 * page_lock() of one L1 table > hash_lock, words->lock; cda->lock nests in none of these
 * but session->lock.  Lookups run under RCU.
 */

#include <xen/compiler.h>
#include <xen/domain_page.h>
#include <xen/event.h>
#include <xen/guest_access.h>
#include <xen/hypercall.h>
#include <xen/lib.h>
#include <xen/mm.h>
#include <xen/nospec.h>
#include <xen/param.h>
#include <xen/random.h>
#include <xen/rcupdate.h>
#include <xen/sched.h>
#include <xen/softirq.h>
#include <xen/time.h>
#include <xen/xmalloc.h>

#include <public/cda.h>

#include <asm/flushtlb.h>
#include <asm/pv/cda.h>
#include <asm/pv/cda-compat.h>
#include <asm/shadow.h>
#include <asm/traps.h>

#include <xsm/xsm.h>

bool __read_mostly opt_cda;
boolean_param("cda", opt_cda);

unsigned long __read_mostly cda_l1e_keep = ~0UL;
unsigned long __read_mostly cda_l1e_grant;

#define CDA_CAPS          (CDA_ABI_VERSION | CDA_CAP_PTXEN | \
                           CDA_CAP_EMULXEN | CDA_CAP_SCANXEN | CDA_CAP_AUTOXEN)

#define CDA_MODES         ((1u << CDA_MODE_PTXEN) | (1u << CDA_MODE_EMULXEN) | \
                           (1u << CDA_MODE_SCANXEN) | (1u << CDA_MODE_AUTOXEN))

#define CHUNK_SHIFT       L2_PAGETABLE_SHIFT
#define CHUNK_PAGES       L1_PAGETABLE_ENTRIES
#define VA_END            (1UL << 47)

/* _PAGE_GUEST_KERNEL as it stands in an entry. */
#define L1E_GUEST_KERNEL  (1UL << 52)

/* The part of an L2 entry that decides where it leads and who may write. */
#define L2E_MASK          ((PADDR_MASK & PAGE_MASK) | _PAGE_PRESENT | \
                           _PAGE_RW | _PAGE_USER | _PAGE_PSE)
#define L2E_FLAGS         (_PAGE_PRESENT | _PAGE_RW | _PAGE_USER)
/* In chunk->want, outside L2E_MASK: makes the comparison fail. */
#define WANT_TOUCHED      _AC(0x800, UL)

#define HASH_BITS         8
#define MAX_TOKENS        64
#define MAX_RANGES        500      /* a table of them is one page at most */
#define EMIT_BATCH        128
#define CHUNKS_PER_CHECK  64u
#define MAX_WORDS         2048     /* stores logged in one cycle of a range */
#define WORDS_SHIFT       8        /* of which a page holds so many */
#define MAX_WORD_LOGS     64       /* ranges of a domain that have such a log */
#define MAX_GOING         4096     /* KiB of former ranges which RCU still holds */
#define FREED_AT_ONCE     2u       /* pages of chunks, by one RCU callback */

/* Chunks, and expected L2 entries, in a piece of memory.  See alloc_pieces(). */
#define CHUNKS_SHIFT      5
#define WANTS_SHIFT       9

/*
 * Memory of Xen's for the ranges of a domain: this, and a 64th of the pages
 * which it may track.  Ranges of usual sizes take a 1000th.
 */
#define BASE_KIB          4096
/* A session which registers in a loop has 64 MiB at once, then so much a second. */
#define NS_PER_KIB        15000
#define MAX_AHEAD         MILLISECS(1000)

/*
 * Autoxen.  Instructions, of Xen alone: a first write costs about 500 (fault,
 * protecting it again), looking at a watched page 10, at a dirty one 60.  So
 * two dirty cycles in a row pay for a third, and a page which stays clean may
 * be watched for about 500 / 10 cycles before a fault would have been cheaper:
 * whatever the page does later, twice the best choice is the worst case.
 */
#define HOT_AFTER         2    /* dirty cycles in a row */
#define COLD_AFTER        48   /* clean ones */

#define DEFAULT_SESSIONS  64
#define DEFAULT_PAGES     (1UL << 20)          /* 4 GiB */
#define DEFAULT_RANGES    64

struct cda_chunk {
    unsigned long dirty[BITS_TO_LONGS(CHUNK_PAGES)];
    mfn_t l1;                     /* bound table, or INVALID_MFN */
    uint16_t lo, hi;              /* slots [lo, hi) belong to the range */
    unsigned int n;               /* its number there */
    struct cda_range *range;
    struct cda_heat *heat;        /* NULL: every page faults */
    struct cda_chunk *next, **pprev; /* hash chain by l1 */
};

/* Of one chunk, where pages may be left writable.  Under page_lock(). */
struct cda_heat {
    unsigned long hot[BITS_TO_LONGS(CHUNK_PAGES)]; /* CDA_L1E_WATCH was set */
    uint8_t pass[CHUNK_PAGES];    /* when the page was dirty last, mod 256 */
    uint8_t streak[CHUNK_PAGES];  /* cycles: cold and dirty, or hot and clean */
};

/* Stores performed by Xen.  Appended to under page_lock() and `lock`. */
struct cda_words {
    spinlock_t lock;
    unsigned int nr, which;
    struct cda_word {
        uint64_t entry, value;    /* as in the log */
    } **at[2];
};

struct cda_range {
    struct rcu_head rcu;
    struct cda_session *session;
    unsigned int kib;             /* of memory */
    uint32_t id;
    uint8_t mode;
    uint8_t pass;                 /* counts protecting cycles, mod 256 */
    bool active;                  /* a cycle is open */
    bool lost;                    /* a log could not be delivered */
    bool full;                    /* the log being written is too small */
    uint8_t cont;                 /* operation that was interrupted, or 0 */
    uint64_t ticket;              /* who may continue it */
    unsigned long start, end, pages;
    unsigned long log, log_entries;
    unsigned long base;           /* start, rounded down to a chunk */
    unsigned int nr_chunks;
    unsigned int cursor;          /* where `cont` goes on */
    uint64_t epoch, count, found; /* of the log being written */
    unsigned long **want;         /* expected L2 entries, one a chunk */
    struct cda_chunk **chunk;
    struct cda_words *words;      /* Emulxen */
};

struct cda_ranges {               /* sorted by address, replaced as a whole */
    struct rcu_head rcu;
    unsigned int nr;
    struct cda_range *r[];
};

struct cda_session {
    struct rcu_head rcu;
    struct cda_session *hnext;    /* hash chain by L4 */
    mfn_t l4;
    spinlock_t lock;
    bool dead, revoked, forward;
    struct cda_ranges *ranges;
    uint64_t cookie, id, tag;
    uint64_t max_pages, pages;
    uint32_t max_ranges, next_id, modes;
    s_time_t born;
    /* An operation on all ranges that was interrupted. */
    uint8_t all_op;
    bool all_inside;              /* within range `all_next`, not before it */
    uint32_t all_next;            /* index in `ranges` */
    uint64_t all_ticket;
    uint64_t tickets;             /* given out so far */
    uint64_t all_total;
    /* take_back() that was interrupted: by a fork, by the session's end. */
    spinlock_t back_lock;
    struct cda_back {
        const void *for_what;
        unsigned long va;
        bool counted;
    } fork, drop;
    struct cda_domain *cda;
    s_time_t paid;                /* when the memory taken so far would be due */
    /* Former ranges, whose memory is not free yet: KiB; and who needs us. */
    atomic_t going, refs;
    struct cda_counters cnt;
};

struct cda_token {
    uint8_t bytes[CDA_TOKEN_BYTES];
    bool used;
    uint64_t tag, max_pages;
    uint32_t max_ranges, max_sessions, modes;
    s_time_t expires;
};

struct cda_domain {
    spinlock_t lock;              /* tokens, limits, chains of sessions */
    spinlock_t hash_lock;         /* chains of chunks */
    struct cda_session *session[1 << HASH_BITS];
    struct cda_chunk *chunk[1 << HASH_BITS];
    struct cda_token token[MAX_TOKENS];
    uint32_t flags, max_sessions, max_ranges, max_tokens;
    uint64_t max_pages, used_pages;
    uint32_t used_sessions, used_word_logs;
    atomic_t kib, refs;           /* memory of ranges; sessions, and the domain */
    uint64_t next_session;
    struct cda_counters gone;     /* of sessions that ended */
};

static DEFINE_RCU_READ_LOCK(cda_rcu);

/* What Dom0 sees of all domains which it has not admitted: nothing. */
static struct cda_domain not_admitted;

#define COUNT(s, what) \
    asm volatile ( "lock incq %0" : "+m" ((s)->cnt.what) )
#define COUNT_N(s, what, n) \
    asm volatile ( "lock addq %1, %0" : "+m" ((s)->cnt.what) \
                   : "er" ((uint64_t)(n)) )

static unsigned int hash_mfn(mfn_t mfn)
{
    return (mfn_x(mfn) ^ (mfn_x(mfn) >> HASH_BITS)) & ((1 << HASH_BITS) - 1);
}

static void init_domain(struct cda_domain *cda)
{
    spin_lock_init(&cda->lock);
    spin_lock_init(&cda->hash_lock);
    cda->max_sessions = DEFAULT_SESSIONS;
    cda->max_pages = DEFAULT_PAGES;
    cda->max_ranges = DEFAULT_RANGES;
    cda->max_tokens = MAX_TOKENS;
    atomic_set(&cda->refs, 1);
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
 * Chunks by the L1 table they are bound to.
 */

static void bind(struct cda_domain *cda, struct cda_chunk *c, mfn_t l1)
{
    struct cda_chunk **head = &cda->chunk[hash_mfn(l1)];

    spin_lock(&cda->hash_lock);
    ASSERT(mfn_eq(c->l1, INVALID_MFN));
    c->l1 = l1;
    c->next = *head;
    if ( c->next )
        c->next->pprev = &c->next;
    c->pprev = head;
    *head = c;
    spin_unlock(&cda->hash_lock);
}

/*
 * Under hash_lock.  Not by a walk along the chain: the end of a session does
 * this for all of its chunks, and a guest may choose tables which collide.
 */
static void unhash(struct cda_chunk *c)
{
    *c->pprev = c->next;
    if ( c->next )
        c->next->pprev = c->pprev;
    c->l1 = INVALID_MFN;
}

static mfn_t unbind(struct cda_domain *cda, struct cda_chunk *c)
{
    mfn_t l1;

    spin_lock(&cda->hash_lock);
    l1 = c->l1;
    if ( !mfn_eq(l1, INVALID_MFN) )
        unhash(c);
    spin_unlock(&cda->hash_lock);

    return l1;
}

static always_inline unsigned long *want_at(const struct cda_range *r,
                                            unsigned int n)
{
    return &r->want[n >> WANTS_SHIFT][n & ((1u << WANTS_SHIFT) - 1)];
}

static always_inline struct cda_chunk *chunk_at(const struct cda_range *r,
                                                unsigned int n)
{
    return &r->chunk[n >> CHUNKS_SHIFT][n & ((1u << CHUNKS_SHIFT) - 1)];
}

static unsigned long *want_of(const struct cda_chunk *c)
{
    return want_at(c->range, c->n);
}

/* The chunk learns that the page is to be listed; @guest: who changes it. */
static void note_entry(struct domain *d, mfn_t l1mfn, const void *pl1e,
                       bool guest)
{
    struct cda_domain *cda = d->arch.pv.cda;
    unsigned long l1e = *(const volatile unsigned long *)pl1e;
    unsigned int slot = PAGE_OFFSET(pl1e) / sizeof(l1_pgentry_t);
    struct cda_chunk *c;

    if ( !cda || !(l1e & _PAGE_PRESENT) )
        return;

    spin_lock(&cda->hash_lock);
    for ( c = cda->chunk[hash_mfn(l1mfn)]; c; c = c->next )
        if ( mfn_eq(c->l1, l1mfn) && slot >= c->lo && slot < c->hi )
        {
            set_bit(slot, c->dirty);
            set_bit(__builtin_ctzl(WANT_TOUCHED), want_of(c));
            if ( guest )
                COUNT(c->range->session, guest_updates);
        }
    spin_unlock(&cda->hash_lock);
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

    spin_lock(&cda->hash_lock);
    for ( c = cda->chunk[hash_mfn(l1mfn)]; c; c = next )
    {
        next = c->next;
        if ( mfn_eq(c->l1, l1mfn) )
        {
            unhash(c);
            ACCESS_ONCE(*want_of(c)) = WANT_TOUCHED;
        }
    }
    spin_unlock(&cda->hash_lock);
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

static always_inline void *map_table(mfn_t mfn)
{
#ifdef NDEBUG
    if ( likely(mfn_x(mfn) <= PFN_DOWN(__pa(HYPERVISOR_VIRT_END - 1))) )
        return mfn_to_virt(mfn_x(mfn));
#endif
    return map_domain_page(mfn);
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

    unmap_table(pl1e);
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
    struct page_info *pg;

    for ( ; ; )
    {
        unsigned long seen;

        if ( !(old & _PAGE_PRESENT) )
            return UNKNOWN;

        /* cda_entry_read() came before us. */
        if ( bound && (old & (_PAGE_RW | CDA_L1E_RO)) == CDA_L1E_RO )
            return PROTECTED;

        if ( likely(old & _PAGE_RW) &&
             likely(old & (CDA_L1E_RO | CDA_L1E_WATCH)) )
            pg = mfn_to_page(l2e_mfn(old));
        else
        {
            pg = trackable(d, old);
            if ( !pg )
                return (old & _PAGE_RW) ? REFUSED : UNKNOWN;
        }

        if ( unlikely(!(old & _PAGE_RW)) )
        {
            /* Authority left over from elsewhere is not ours to use. */
            new = (old & ~(CDA_L1E_RO | CDA_L1E_WATCH)) | CDA_L1E_SEEN;
            if ( new == old )
                return PROTECTED;
        }
        else if ( watch )
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
static bool cool(l1_pgentry_t *pl1e, unsigned long old)
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
static void evict(struct cda_domain *cda, const struct domain *d,
                  const struct cda_chunk *c, l1_pgentry_t *pl1e, mfn_t l1)
{
    struct cda_chunk *o;

    for ( ; ; )
    {
        spin_lock(&cda->hash_lock);
        for ( o = cda->chunk[hash_mfn(l1)]; o; o = o->next )
            if ( o != c && mfn_eq(o->l1, l1) && o->lo < c->hi && c->lo < o->hi )
                break;
        spin_unlock(&cda->hash_lock);

        if ( !o )
            break;

        /* In this order: who finds it unbound may rely on its slots. */
        take_back_slots(d, o, pl1e, 0);
        unbind(cda, o);
        ACCESS_ONCE(*want_of(o)) = WANT_TOUCHED;
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
            cool(pl1e, l1e);
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

static void flush(struct cda_session *s, const struct domain *d)
{
    COUNT(s, flushes);
    /* Plain FLUSH_TLB reaches global entries as well. */
    flush_tlb_mask(d->dirty_cpumask);
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
 * the table of chunk @c, at @va of this one?  Not if the table is where the
 * chunk says, and there is nothing in its place there: a fork copies entries
 * to the address at which it finds them.  An entry that is not present counts,
 * as it may lead to the same page.
 *
 * The tables are not validated: what is read there decides nothing else.  An L3
 * table which is came with the other root of that address space (Linux has two,
 * for the kernel and for the user), and was looked at then.
 */
static bool may_share(const struct domain *d, const struct page_info *l4,
                      const struct cda_chunk *c, unsigned long va)
{
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

/*
 * take_back_chunk() for all of session @s, or what it may share with the new
 * root @l4.  Preemptible: false means "call again", with the same @for_what,
 * which tells one run from another.
 */
static bool take_back(struct cda_session *s, struct domain *d,
                      struct cda_back *back, const void *for_what,
                      unsigned long mark, const struct page_info *l4)
{
    struct cda_ranges *tab = rcu_dereference(s->ranges);
    bool took = false, counted = false;
    unsigned int i, j, n = 0;
    unsigned long va = 0;

    spin_lock(&s->back_lock);
    if ( back->for_what == for_what )
    {
        va = back->va;
        counted = back->counted;
    }
    spin_unlock(&s->back_lock);

    for ( i = 0; tab && i < tab->nr; ++i )
    {
        struct cda_range *r = tab->r[i];

        if ( r->end <= va )
            continue;

        j = va > r->base ? (va - r->base) >> CHUNK_SHIFT : 0;
        for ( ; j < r->nr_chunks; ++j )
        {
            struct cda_chunk *c = chunk_at(r, j);
            unsigned long at = r->base + ((unsigned long)j << CHUNK_SHIFT);

            if ( n++ && hypercall_preempt_check() )
            {
                spin_lock(&s->back_lock);
                back->for_what = for_what;
                /* Not below the end of a neighbour in the same chunk. */
                back->va = max(va, at);
                back->counted = counted;
                spin_unlock(&s->back_lock);
                /* Nobody may come back for the rest. */
                if ( took )
                    flush(s, d);
                return false;
            }
            if ( l4 && !may_share(d, l4, c, at) )
                continue;
            take_back_chunk(d, c, mark);
            took = true;
            if ( !mark )
                ACCESS_ONCE(*want_at(r, j)) = WANT_TOUCHED;
            if ( l4 && !counted )
                COUNT(s, forks);
            counted = true;
        }
        va = r->end;
    }

    spin_lock(&s->back_lock);
    if ( back->for_what == for_what )
        back->for_what = NULL;
    spin_unlock(&s->back_lock);
    if ( took )
        flush(s, d);

    return true;
}

/*
 * Sessions.
 */

static struct cda_session *find_session(const struct cda_domain *cda, mfn_t l4)
{
    struct cda_session *s = rcu_dereference(cda->session[hash_mfn(l4)]);

    while ( s && !mfn_eq(s->l4, l4) )
        s = rcu_dereference(s->hnext);

    return s;
}

static struct cda_range *find_range(const struct cda_session *s,
                                    unsigned long va)
{
    const struct cda_ranges *tab = rcu_dereference(s->ranges);
    unsigned int lo = 0, hi = tab ? tab->nr : 0;

    while ( lo < hi )
    {
        unsigned int mid = (lo + hi) / 2;
        struct cda_range *r = tab->r[mid];

        if ( va < r->start )
            hi = mid;
        else if ( va >= r->end )
            lo = mid + 1;
        else
            return r;
    }

    return NULL;
}

static void cf_check free_ranges_rcu(struct rcu_head *head)
{
    xfree(container_of(head, struct cda_ranges, rcu));
}

/*
 * What a process makes Xen allocate comes in pieces of a page at most: more at
 * once would be mapped for the purpose, and each page that is unmapped again
 * costs a shootdown on all CPUs of the host.  (The list of pieces is longer
 * for ranges beyond 32 GiB; then it is contiguous, and not mapped either.)
 */
static void *zalloc(size_t bytes)
{
    return xzalloc_array(unsigned long,
                         (bytes + sizeof(unsigned long) - 1) /
                         sizeof(unsigned long));
}

static unsigned int pieces_of(unsigned int nr, unsigned int shift)
{
    return (nr + (1u << shift) - 1) >> shift;
}

static void free_pieces(void *pieces, unsigned int nr, unsigned int shift)
{
    void **piece = pieces;
    unsigned int i;

    if ( !piece )
        return;
    for ( i = 0; i < pieces_of(nr, shift); ++i )
        xfree(piece[i]);
    xfree(piece);
}

/* @nr elements of @size, 1 << @shift in a piece; NULL: no memory. */
static void *alloc_pieces(unsigned int nr, unsigned int shift, size_t size)
{
    void **piece = zalloc(pieces_of(nr, shift) * sizeof(*piece));
    unsigned int i;

    for ( i = 0; piece && i < pieces_of(nr, shift); ++i )
    {
        piece[i] = zalloc(min(nr - (i << shift), 1u << shift) * size);
        if ( !piece[i] )
        {
            free_pieces(piece, nr, shift);
            return NULL;
        }
    }

    return piece;
}

/* True: nothing is left of @r.  Its cursor has done its work. */
static bool free_some(struct cda_range *r, unsigned int most)
{
    unsigned int i;

    for ( ; r->chunk && r->cursor < r->nr_chunks; --most )
    {
        if ( !most )
            return false;
        i = r->cursor >> CHUNKS_SHIFT;
        do {
            xfree(chunk_at(r, r->cursor)->heat);
        } while ( ++r->cursor < r->nr_chunks &&
                  r->cursor >> CHUNKS_SHIFT == i );
        xfree(r->chunk[i]);
    }

    if ( r->words )
        for ( i = 0; i < ARRAY_SIZE(r->words->at); ++i )
            free_pieces(r->words->at[i], MAX_WORDS, WORDS_SHIFT);
    xfree(r->words);
    free_pieces(r->want, r->nr_chunks, WANTS_SHIFT);
    xfree(r->chunk);
    xfree(r);

    return true;
}

static unsigned long max_kib(const struct cda_domain *cda)
{
    return BASE_KIB + min(cda->max_pages, (uint64_t)1 << 33) / 16;
}

static void put_cda(struct cda_domain *cda)
{
    if ( atomic_dec_and_test(&cda->refs) )
        xfree(cda);
}

static void put_session(struct cda_session *s)
{
    if ( !atomic_dec_and_test(&s->refs) )
        return;
    put_cda(s->cda);
    xfree(s);
}

/* Again and again, so that no CPU is kept for long. */
static void cf_check free_range_rcu(struct rcu_head *head)
{
    struct cda_range *r = container_of(head, struct cda_range, rcu);
    struct cda_session *s = r->session;
    unsigned int kib = r->kib;

    if ( !free_some(r, FREED_AT_ONCE) )
    {
        call_rcu(head, free_range_rcu);
        return;
    }
    atomic_sub(kib, &s->going);
    atomic_sub(kib, &s->cda->kib);
    put_session(s);
}

/*
 * The quota of pages has @r back at once, the one of memory once it is free.
 * In between that counts as `going`, for which registering waits.
 */
static void free_range_later(struct cda_range *r)
{
    r->cursor = 0;
    atomic_add(r->kib, &r->session->going);
    atomic_inc(&r->session->refs);
    call_rcu(&r->rcu, free_range_rcu);
}

static void cf_check free_session_rcu(struct rcu_head *head)
{
    struct cda_session *s = container_of(head, struct cda_session, rcu);
    unsigned int i;

    for ( i = 0; s->ranges && i < s->ranges->nr; ++i )
        free_range_later(s->ranges->r[i]);
    xfree(s->ranges);
    put_session(s);
}

/*
 * Makes @s unreachable; its memory goes when no CPU can see it any more.  Who
 * may: a thread of its own address space, in the gate under s->lock; others
 * when the address space is @gone, and no thread of it can be there.
 */
static void unlink_session(struct cda_domain *cda, struct cda_session *s,
                           bool gone)
{
    struct cda_session **pp = &cda->session[hash_mfn(s->l4)];
    const uint64_t *from = (const uint64_t *)&s->cnt;
    uint64_t *to = (uint64_t *)&cda->gone;
    unsigned int i, j;

    ASSERT(spin_is_locked(&cda->lock));
    ASSERT(!s->dead);
    ASSERT(gone ||
           (spin_is_locked(&s->lock) &&
            mfn_eq(s->l4, pagetable_get_mfn(current->arch.guest_table_user))));

    while ( *pp != s )
        pp = &(*pp)->hnext;
    *pp = s->hnext;
    s->dead = true;

    for ( i = 0; s->ranges && i < s->ranges->nr; ++i )
    {
        cda->used_word_logs -= !!s->ranges->r[i]->words;
        for ( j = 0; j < s->ranges->r[i]->nr_chunks; ++j )
            unbind(cda, chunk_at(s->ranges->r[i], j));
    }

    cda->used_sessions--;
    cda->used_pages -= s->pages;
    for ( i = 0; i < sizeof(s->cnt) / sizeof(*to); ++i )
        to[i] += from[i];

    call_rcu(&s->rcu, free_session_rcu);
}

/* A page table loses its type, under whatever locks: no allocation here. */
void cda_forget_table(struct domain *d, struct page_info *pg,
                      unsigned long type)
{
    struct cda_domain *cda = d ? d->arch.pv.cda : NULL;
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
        s = find_session(cda, mfn);
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
         (cda = d->arch.pv.cda) == NULL || !cda->used_sessions )
        return 0;

    rcu_read_lock(&cda_rcu);
    s = find_session(cda, pagetable_get_mfn(curr->arch.guest_table_user));
    if ( s && s->ranges )
    {
        /*
         * Not under s->lock, which another vCPU may hold for long: entries
         * change under page_lock() only, and what that vCPU protects anew
         * was given by the kernel after it copied its entries.
         */
        if ( !take_back(s, curr->domain, &s->fork, l4, CDA_L1E_SEEN, l4) )
            rc = -EINTR;
    }
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

/* A 32-bit process must not be served: its pointers and registers differ. */
static bool long_mode_process(const struct cpu_user_regs *regs)
{
    unsigned int ar;
    bool valid;

    /* The guest's own GDT and LDT are loaded, as for its INT. */
    asm ( "lar %[sel], %[ar]"
          : [ar] "=r" (ar), "=@ccz" (valid)
          : [sel] "r" ((unsigned int)regs->cs) );

    return valid && (ar & _SEGMENT_L);
}

/*
 * Emulxen.
 */

struct cda_store {
    struct cda_session *s;
    struct cda_range *r;
    unsigned int chunk;
    unsigned long page;           /* the one that faulted */
};

/* The largest part that one entry can hold. */
static unsigned int part_of(unsigned int bytes)
{
    return bytes >= 8 ? 8 : bytes >= 4 ? 4 : bytes >= 2 ? 2 : 1;
}

static void log_words(const struct cda_store *store, unsigned long va,
                      const uint8_t *data, unsigned int bytes)
{
    struct cda_words *words = store->r->words;
    unsigned int part;

    for ( va -= store->r->start; bytes; bytes -= part, va += part, data += part )
    {
        unsigned int nr = words->nr++;
        struct cda_word *w = &words->at[words->which][nr >> WORDS_SHIFT]
                                       [nr & ((1u << WORDS_SHIFT) - 1)];

        part = part_of(bytes);
        w->entry = va | ((uint64_t)CDA_ENTRY_WORD << CDA_ENTRY_KIND_SHIFT) |
                   ((uint64_t)(part - 1) << CDA_ENTRY_SIZE_SHIFT);
        w->value = 0;
        memcpy(&w->value, data, part);
    }
}

/* As the guest's store would be: in one piece up to eight bytes. */
static void put_bytes(void *to, const void *from, unsigned int bytes)
{
    unsigned int part;

    for ( ; bytes; bytes -= part, to += part, from += part )
    {
        part = part_of(bytes);
        switch ( part )
        {
        case 8: *(volatile uint64_t *)to = *(const uint64_t *)from; break;
        case 4: *(volatile uint32_t *)to = *(const uint32_t *)from; break;
        case 2: *(volatile uint16_t *)to = *(const uint16_t *)from; break;
        case 1: *(volatile uint8_t *)to = *(const uint8_t *)from; break;
        }
    }
}

/* False: *@old is what memory holds. */
static bool exchange(void *to, void *old, const void *new, unsigned int bytes)
{
#define EXCHANGE(type) ({                                                   \
    type was_ = *(type *)old, seen_ = cmpxchg((type *)to, was_,             \
                                              *(const type *)new);          \
    *(type *)old = seen_;                                                   \
    seen_ == was_; })

    switch ( bytes )
    {
    case 1: return EXCHANGE(uint8_t);
    case 2: return EXCHANGE(uint16_t);
    case 4: return EXCHANGE(uint32_t);
    case 8: return EXCHANGE(uint64_t);
    case 16:
    {
        __uint128_t was = *(__uint128_t *)old;
        __uint128_t seen = __cmpxchg16b(to, old, (void *)new);

        *(__uint128_t *)old = seen;
        return seen == was;
    }
#undef EXCHANGE
    }

    ASSERT_UNREACHABLE();
    return false;
}

/*
 * Performs a store of the process, as if it had happened just now: where its
 * address leads now, and only while Xen could grant the page RW as well.
 */
static enum cda_stored store(struct cda_store *store, unsigned long va,
                             void *old, const void *new, unsigned int bytes)
{
    struct domain *d = current->domain;
    struct cda_session *s = store->s;
    struct cda_chunk *c = chunk_at(store->r, store->chunk);
    struct cda_words *words = store->r->words;
    enum cda_stored rc = CDA_REFUSED;
    struct page_info *pg;
    unsigned long l1e, l2e;
    l1_pgentry_t *pl1e;
    uint8_t *to;
    mfn_t l1 = c->l1;

    barrier(); /* one look, until page_lock() allows a second */
    if ( !bytes || bytes > 16 || (va & PAGE_MASK) != store->page ||
         ((va + bytes - 1) & PAGE_MASK) != store->page ||
         mfn_eq(l1, INVALID_MFN) || (pl1e = lock_l1(d, l1)) == NULL )
        return CDA_REFUSED;

    l1e = ACCESS_ONCE(l1e_get_intpte(pl1e[l1_table_offset(va)]));
    if ( !(l1e & _PAGE_PRESENT) || !mfn_eq(c->l1, l1) || s->forward ||
         s->revoked || paging_mode_enabled(d) )
        goto out;

    /* Unlike a grant, the store must reach the page that is mapped there. */
    l2e = live_l2e(va);
    if ( !l2e_leads(l2e) || !mfn_eq(l2e_mfn(l2e), l1) )
        goto out;

    if ( l1e & _PAGE_RW )
        rc = CDA_AGAIN;
    if ( (l1e & (_PAGE_RW | CDA_L1E_RO)) != CDA_L1E_RO )
        goto out;

    /* Not into what has become a page table, nor while it becomes one. */
    pg = mfn_to_page(l2e_mfn(l1e));
    if ( !get_writable(pg) )
        goto out;

    to = (uint8_t *)map_table(l2e_mfn(l1e)) + PAGE_OFFSET(va);
    spin_lock(&words->lock);
    /* 16 bytes are four entries at most: 8 + 4 + 2 + 1. */
    if ( words->nr + 4 <= MAX_WORDS )
    {
        rc = CDA_STORED;
        if ( !old )
            put_bytes(to, new, bytes);
        else if ( !exchange(to, old, new, bytes) )
            rc = CDA_DIFFERS;
        if ( rc == CDA_STORED )
            log_words(store, va, new, bytes);
    }
    spin_unlock(&words->lock);
    unmap_table(to);
    put_writable(pg);

 out:
    unlock_l1(pl1e, l1);

    return rc;
}

enum cda_stored cda_store_write(struct cda_store *st, unsigned long va,
                                const void *data, unsigned int bytes)
{
    return store(st, va, NULL, data, bytes);
}

enum cda_stored cda_store_cmpxchg(struct cda_store *st, unsigned long va,
                                  void *old, const void *new,
                                  unsigned int bytes)
{
    if ( (bytes & (bytes - 1)) || (va & (bytes - 1)) )
        return CDA_REFUSED;

    return store(st, va, old, new, bytes);
}

/*
 * The process's own store to a protected page.  False: the page is to become
 * writable.
 */
static noinline bool emulated(struct cda_session *s, struct cda_range *r,
                              unsigned int chunk, unsigned long addr,
                              struct cpu_user_regs *regs)
{
    struct cda_store st = {
        .s = s, .r = r, .chunk = chunk, .page = addr & PAGE_MASK,
    };

    /* Instructions cannot be longer than 15 bytes; Xen is out of reach. */
    if ( !guest_kernel_mode(current, regs) && regs->rip < VA_END &&
         long_mode_process(regs) && cda_emulate(&st, regs) )
    {
        COUNT(s, emulated);
        return true;
    }
    COUNT(s, degraded);

    return false;
}

/* Nothing runs softirqs below the fault handler, so RCU needs no counting. */
#ifdef NDEBUG
#define fault_read_lock()   barrier()
#define fault_read_unlock() barrier()
#else
#define fault_read_lock()   rcu_read_lock(&cda_rcu)
#define fault_read_unlock() rcu_read_unlock(&cda_rcu)
#endif

/*
 * Write to a present page below 2^47 (see cda_may_fix()) by the guest's user,
 * its kernel or Xen.  True if the access shall be tried again.
 */
bool cda_fixup_fault(unsigned long addr, struct cpu_user_regs *regs)
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

    /* No fixups for Xen in interrupt context or with interrupts disabled. */
    if ( unlikely(!(regs->error_code & PFEC_user_mode)) &&
         (in_irq() || !(regs->eflags & X86_EFLAGS_IF)) )
        return false;

    fault_read_lock();

    s = find_session(d->arch.pv.cda,
                     pagetable_get_mfn(curr->arch.guest_table_user));
    if ( !s || (r = find_range(s, addr)) == NULL )
        goto out;

    n = array_index_nospec((addr - r->base) >> CHUNK_SHIFT, r->nr_chunks);
    c = chunk_at(r, n);
    l1 = c->l1;
    barrier(); /* one look, until page_lock() allows a second */
    if ( unlikely(mfn_eq(l1, INVALID_MFN)) )
        goto forward;

    if ( unlikely(!(regs->error_code & PFEC_user_mode)) )
    {
        if ( l1_stays_locked(l1) )
            goto out;
    }
    else if ( unlikely(r->words) && emulated(s, r, n, addr, regs) )
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
        set_bit(__builtin_ctzl(WANT_TOUCHED), want_at(r, n));

        /*
         * Whether this table is the one in use at @addr does not matter for
         * the right to write.  If it is not, we are back here at once.
         */
        fixed = regrant(&pl1e[slot], l1e);
        if ( likely(fixed) )
        {
            unlock_l1(pl1e, l1);
            COUNT(s, faults_fixed);
            if ( unlikely(!(regs->error_code & PFEC_user_mode)) )
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

/*
 * The log.
 */

static void __user *log_at(const struct cda_range *r, uint64_t entry)
{
    return (void __user *)(r->log + sizeof(struct cda_log) +
                           entry * sizeof(uint64_t));
}

static void flush_entries(struct cda_range *r, const uint64_t *buf,
                          unsigned int n)
{
    if ( n && copy_to_guest_pv(log_at(r, r->count), buf, n * sizeof(*buf)) )
        r->lost = true;
    r->count += n;
}

/*
 * Appends the stores which Xen performed.  With @keep they stay: entries do
 * not change once they are there, so the copy needs no lock.
 */
static void emit_words(struct cda_range *r, bool keep)
{
    struct cda_words *words = r->words;
    uint64_t room = (r->log_entries - r->count) / 2;
    struct cda_word *const *from;
    unsigned int nr, part, i;

    spin_lock(&words->lock);
    from = words->at[words->which];
    nr = words->nr;
    if ( !keep )
    {
        words->which ^= 1;
        words->nr = 0;
    }
    spin_unlock(&words->lock);

    r->found += nr;
    if ( nr > room )
    {
        r->full = true;
        nr = room;
    }
    for ( i = 0; nr; nr -= part, r->count += 2 * part )
    {
        part = min(nr, 1u << WORDS_SHIFT);
        if ( copy_to_guest_pv(log_at(r, r->count), from[i++],
                              part * sizeof(**from)) )
            r->lost = true;
    }
}

/* Appends the pages in @map to the log of @r, without any lock but s->lock. */
static void emit(struct cda_range *r, unsigned int chunk,
                 const unsigned long *map)
{
    uint64_t buf[EMIT_BATCH], room = r->log_entries - r->count;
    unsigned long page = ((unsigned long)chunk << CHUNK_SHIFT >> PAGE_SHIFT) -
                         ((r->start - r->base) >> PAGE_SHIFT);
    unsigned int w, n = 0;

    for ( w = 0; w < BITS_TO_LONGS(CHUNK_PAGES); ++w, page += BITS_PER_LONG )
    {
        unsigned long bits = map[w];
        unsigned int first = n, found;

        if ( !bits )
            continue;

        for ( ; bits; bits &= bits - 1 )
            buf[n++] = page + __builtin_ctzl(bits);

        /* What does not fit is counted all the same. */
        found = n - first;
        r->found += found;
        if ( unlikely(found > room) )
        {
            r->full = true;
            n = first + room;
        }
        room -= n - first;

        if ( n > EMIT_BATCH - BITS_PER_LONG )
        {
            flush_entries(r, buf, n);
            n = 0;
        }
    }

    flush_entries(r, buf, n);
}

/*
 * Cycles.
 */

#define DO_REPORT   1u
#define DO_PROTECT  2u

static const uint8_t op_does[] = {
    [CDA_OP_begin]  = DO_PROTECT,
    [CDA_OP_end]    = DO_REPORT,
    [CDA_OP_commit] = DO_REPORT | DO_PROTECT,
    [CDA_OP_peek]   = DO_REPORT,
};

static void fill_slots(unsigned long *map, unsigned int lo, unsigned int hi)
{
    memset(map, 0, CHUNK_PAGES / 8);
    for ( ; lo < hi; ++lo )
        __set_bit(lo, map);
}

/*
 * A chunk whose L2 entry is not the one seen last: all of it may have
 * changed.  Binds it to the new table when protecting.
 */
static bool sync_replaced(struct cda_session *s, struct domain *d,
                          struct cda_range *r, unsigned int n,
                          unsigned long l2e, unsigned int what,
                          unsigned long *map, bool *refused)
{
    struct cda_domain *cda = d->arch.pv.cda;
    struct cda_chunk *c = chunk_at(r, n);
    bool unknown = false, watched = false;
    bool flushed = !mfn_eq(c->l1, INVALID_MFN);
    l1_pgentry_t *pl1e;
    unsigned int i;

    fill_slots(map, c->lo, c->hi);
    if ( !(what & DO_PROTECT) )
        return false;

    /* Grants of ours in the old table must not outlive our memory of them. */
    take_back_chunk(d, c, 0);
    unbind(cda, c);

    if ( !l2e_leads(l2e) || !mfn_valid(l2e_mfn(l2e)) ||
         (pl1e = lock_l1(d, l2e_mfn(l2e))) == NULL )
    {
        *want_at(r, n) = WANT_TOUCHED;
        return flushed;
    }

    /*
     * Bound before anything is protected: cda_table_new() must find what a
     * fork may have copied, and waits for page_lock().
     */
    COUNT(s, walks);
    memset(c->dirty, 0, sizeof(c->dirty));
    if ( c->heat )
        memset(c->heat, 0, sizeof(*c->heat));
    bind(cda, c, l2e_mfn(l2e));
    evict(cda, d, c, pl1e, l2e_mfn(l2e));
    for ( i = c->lo; i < c->hi; ++i )
        switch ( protect_entry(d, &pl1e[i], r->mode == CDA_MODE_SCANXEN,
                               false) )
        {
        case WATCHED:
            __set_bit(i, c->heat->hot);
            watched = true;
            break;
        case REFUSED:
            *refused = true;
            /* fall through */
        case UNKNOWN:
            __set_bit(i, c->dirty);
            unknown = true;
            break;
        case PROTECTED:
            break;
        }
    COUNT_N(s, write_protected, c->hi - c->lo);
    *want_at(r, n) = l2e | (unknown || watched ? WANT_TOUCHED : 0);
    unlock_l1(pl1e, l2e_mfn(l2e));

    return true;
}

/* Shall the page in @slot, dirty in this cycle, be watched from now on? */
static bool runs_hot(const struct cda_range *r, struct cda_heat *h,
                     unsigned int slot)
{
    if ( r->mode == CDA_MODE_SCANXEN )
        return true;

    if ( test_bit(slot, h->hot) )
    {
        h->streak[slot] = 0;
        return true;
    }

    h->streak[slot] = h->pass[slot] == (uint8_t)(r->pass - 1)
                      ? h->streak[slot] + 1 : 1;
    h->pass[slot] = r->pass;
    if ( h->streak[slot] < HOT_AFTER )
        return false;
    h->streak[slot] = 0;

    return true;
}

#define WATCHED_ENTRY     (_PAGE_PRESENT | _PAGE_RW | CDA_L1E_WATCH)

/*
 * Word @w of the watched pages of a chunk: which were written.  With @protect
 * those which stayed clean for long are protected instead.
 */
static unsigned long sync_watched(struct cda_session *s, const struct domain *d,
                                  const struct cda_range *r, struct cda_heat *h,
                                  l1_pgentry_t *pl1e, unsigned int w,
                                  bool protect, bool *changed)
{
    unsigned long bits = h->hot[w], written = 0;

    pl1e += w * BITS_PER_LONG;
    for ( ; bits; bits &= bits - 1 )
    {
        unsigned int b = __builtin_ctzl(bits);
        unsigned long l1e = ACCESS_ONCE(l1e_get_intpte(pl1e[b]));
        uint8_t *streak = &h->streak[w * BITS_PER_LONG + b];

        if ( unlikely((l1e & WATCHED_ENTRY) != WATCHED_ENTRY) )
        {
            /*
             * Rewritten by the guest, or taken back: `dirty` knows.  An entry
             * that is not present may hold any bits, ours as well.
             */
            if ( protect )
                __clear_bit(b, &h->hot[w]);
        }
        else if ( l1e & _PAGE_DIRTY )
            written |= 1UL << b;
        else if ( protect && r->mode == CDA_MODE_AUTOXEN &&
                  ++*streak >= COLD_AFTER && cool(&pl1e[b], l1e) )
        {
            *streak = 0;
            __clear_bit(b, &h->hot[w]);
            *changed = true;
            COUNT(s, cooled);
        }
    }

    return written;
}

/* A chunk in place, some of whose entries were written or rewritten. */
static bool sync_touched(struct cda_session *s, struct domain *d,
                         struct cda_range *r, unsigned int n,
                         unsigned long l2e, unsigned int what,
                         unsigned long *map)
{
    struct cda_chunk *c = chunk_at(r, n);
    struct cda_heat *h = c->heat;
    l1_pgentry_t *pl1e = lock_l1(d, l2e_mfn(l2e));
    unsigned long look_again = 0;
    unsigned int w, protected = 0, watched = 0;
    bool changed = false;

    if ( unlikely(!pl1e) || unlikely(!mfn_eq(c->l1, l2e_mfn(l2e))) )
    {
        /* l1_gone() came in between and made it "replaced" for next time. */
        if ( pl1e )
            unlock_l1(pl1e, l2e_mfn(l2e));
        fill_slots(map, c->lo, c->hi);
        return false;
    }

    for ( w = 0; w < BITS_TO_LONGS(CHUNK_PAGES); ++w )
    {
        unsigned long bits = c->dirty[w], keep = 0;

        map[w] = bits;
        if ( !bits && !(h && h->hot[w]) )
            continue;

        if ( h && h->hot[w] )
            bits |= sync_watched(s, d, r, h, pl1e, w, what & DO_PROTECT,
                                 &changed);

        map[w] = bits;
        if ( !(what & DO_PROTECT) )
            continue;

        for ( ; bits; bits &= bits - 1 )
        {
            unsigned int b = __builtin_ctzl(bits);
            unsigned int slot = w * BITS_PER_LONG + b;
            bool watch = h && runs_hot(r, h, slot);

            switch ( protect_entry(d, &pl1e[slot], watch, true) )
            {
            case PROTECTED:
                protected++;
                if ( h )
                    __clear_bit(slot, h->hot);
                break;
            case WATCHED:
                watched++;
                if ( !test_bit(slot, h->hot) )
                {
                    __set_bit(slot, h->hot);
                    if ( r->mode == CDA_MODE_AUTOXEN )
                        COUNT(s, heated);
                }
                break;
            default:
                keep |= 1UL << b;
                break;
            }
        }
        c->dirty[w] = keep;
        look_again |= keep;
        if ( h )
            look_again |= h->hot[w];
    }

    if ( what & DO_PROTECT )
        *want_at(r, n) = l2e | (look_again ? WANT_TOUCHED : 0);
    unlock_l1(pl1e, l2e_mfn(l2e));
    if ( protected )
        COUNT_N(s, write_protected, protected);
    if ( watched )
        COUNT_N(s, watched, watched);

    return protected || watched || changed;
}

/*
 * Does @op on @r, with @resume from where it was interrupted.  Returns 0,
 * -ERESTART, or an error after which the operation is over.
 */
static int do_cycle(struct cda_session *s, struct domain *d,
                    struct cda_range *r, unsigned int op, bool resume)
{
    const unsigned int what = op_does[op];
    struct page_info *l2pg = NULL;
    l2_pgentry_t *l2t = NULL;
    bool changed = false, refused = false;
    unsigned int n;
    int rc = 0;

    /* What is protected now was not there when the session began to end. */
    s->drop.for_what = NULL;

    if ( !resume || r->cont != op )
    {
        /* Whoever was interrupted here never came back for his log. */
        if ( r->cont )
            r->lost = true;

        if ( op == CDA_OP_begin ? r->active : !r->active )
        {
            r->cont = 0;
            return op == CDA_OP_begin ? -EBUSY : -ENODATA;
        }

        r->cont = op;
        r->cursor = 0;
        r->count = r->found = 0;
        r->full = false;
        if ( what & DO_PROTECT )
            r->pass++;
    }

    for ( n = r->cursor; n < r->nr_chunks; ++n )
    {
        unsigned long va = r->base + ((unsigned long)n << CHUNK_SHIFT), l2e;
        unsigned long map[BITS_TO_LONGS(CHUNK_PAGES)];

        if ( n == r->cursor || !l2_table_offset(va) )
        {
            if ( l2pg )
            {
                unmap_table(l2t);
                unref_frame(l2pg);
            }
            l2pg = get_l2(d, va);
            l2t = l2pg ? map_table(page_to_mfn(l2pg)) : NULL;
        }

        if ( likely(l2t) )
        {
            /* Most chunks are clean: one read and one comparison each. */
            const unsigned long *p = &l2e_get_intpte(l2t[l2_table_offset(va)]);
            const unsigned long *want = want_at(r, n), *stop;
            unsigned int left = L2_PAGETABLE_ENTRIES - l2_table_offset(va);

            left = min(min(left, r->nr_chunks - n), CHUNKS_PER_CHECK);
            left = min(left, (1u << WANTS_SHIFT) -
                             (n & ((1u << WANTS_SHIFT) - 1)));
            for ( stop = want + left - 1; want < stop; ++want, ++p )
                if ( (ACCESS_ONCE(*p) & L2E_MASK) != ACCESS_ONCE(*want) )
                    break;
            n += left - 1 - (stop - want);
            l2e = ACCESS_ONCE(*p) & L2E_MASK;
        }
        else
            l2e = 0;

        if ( l2e != *want_at(r, n) )
        {
            if ( l2e_leads(l2e) && l2e == (*want_at(r, n) & ~WANT_TOUCHED) )
                changed |= sync_touched(s, d, r, n, l2e, what, map);
            else
                changed |= sync_replaced(s, d, r, n, l2e, what, map, &refused);

            if ( what & DO_REPORT )
                emit(r, n, map);

            /* Later they only count as dirty each time. */
            if ( refused && op == CDA_OP_begin )
            {
                /* The next begin looks again. */
                ACCESS_ONCE(*want_at(r, n)) = WANT_TOUCHED;
                rc = -EPERM;
                break;
            }
        }

        /* An administrator who revokes waits for s->lock. */
        if ( n + 1 < r->nr_chunks &&
             (hypercall_preempt_check() || s->revoked) )
        {
            r->cursor = n + 1;
            rc = -ERESTART;
            break;
        }
    }

    if ( l2pg )
    {
        unmap_table(l2t);
        unref_frame(l2pg);
    }

    /*
     * Also when interrupted: what is protected must fault from now on, since
     * a caller which does not come back would otherwise never flush.
     */
    if ( changed )
        flush(s, d);

    if ( rc == -ERESTART )
        return rc;

    r->cont = 0;
    if ( rc )
        return rc;

    if ( unlikely(r->words) )
    {
        if ( what & DO_REPORT )
            emit_words(r, op == CDA_OP_peek);
        else
        {
            /* Stores before the cycle began. */
            spin_lock(&r->words->lock);
            r->words->nr = 0;
            spin_unlock(&r->words->lock);
        }
    }

    if ( what & DO_REPORT )
    {
        struct cda_log h = {
            .epoch = r->epoch + (op != CDA_OP_peek),
            .count = r->count,
            .dirty = r->found,
            .flags = r->lost || r->full ? CDA_LOG_LOST : 0,
            .entry_bytes = sizeof(uint64_t),
        };

        if ( op != CDA_OP_peek )
        {
            r->epoch++;
            COUNT(s, cycles);
        }
        r->active = op != CDA_OP_end;

        /* The epoch last: who reads the new one there reads all of it. */
        if ( copy_to_guest_pv((void __user *)(r->log + sizeof(h.epoch)),
                              &h.count, sizeof(h) - sizeof(h.epoch)) ||
             put_guest(h.epoch, (uint64_t __user *)r->log) )
        {
            r->lost = true;
            return -EFAULT;
        }
        if ( r->lost )
        {
            r->found |= CDA_RESULT_LOST;
            r->lost = op == CDA_OP_peek;
        }
        else if ( h.flags )
            r->found |= CDA_RESULT_LOST;
    }
    else
        r->active = true;

    return 0;
}

static struct cda_range *range_by_id(const struct cda_session *s, uint64_t id)
{
    const struct cda_ranges *tab = s->ranges;
    unsigned int i;

    for ( i = 0; tab && i < tab->nr; ++i )
        if ( tab->r[i]->id == id )
            return tab->r[i];

    return NULL;
}

/* The lists of an interrupted call on all ranges will not be complete. */
static void abandon_all(struct cda_session *s)
{
    unsigned int i;

    if ( !s->all_op )
        return;

    s->all_op = 0;
    for ( i = 0; s->ranges && i < s->ranges->nr; ++i )
        s->ranges->r[i]->lost = true;
}

/*
 * An interrupted operation leaves a ticket in the caller's register.  Only the
 * execution that still holds it goes on; a new call of the same operation,
 * after a longjmp() or by another thread, must not inherit half a list.
 */
static long op_cycle(struct cda_session *s, struct domain *d, unsigned int op,
                     uint64_t id, uint64_t *ticket)
{
    bool resume = *ticket;
    struct cda_range *r;
    int rc;

    if ( unlikely(paging_mode_enabled(d)) )
        return -EOPNOTSUPP;
    if ( unlikely(*ticket > s->tickets) )
        return -EINVAL;

    if ( id != CDA_ALL_RANGES )
    {
        r = range_by_id(s, id);
        if ( !r )
            return -EBADF;
        if ( resume && (r->cont != op || r->ticket != *ticket) )
            return -EAGAIN;
        abandon_all(s);

        rc = do_cycle(s, d, r, op, resume);
        if ( rc == -ERESTART )
            *ticket = r->ticket = ++s->tickets;
        if ( rc )
            return rc;
        return (op_does[op] & DO_REPORT) ? r->found : 0;
    }

    if ( resume && (s->all_op != op || s->all_ticket != *ticket) )
        return -EAGAIN;
    if ( !resume )
    {
        abandon_all(s);
        s->all_op = op;
        s->all_inside = false;
        s->all_next = 0;
        s->all_total = 0;
    }

    for ( rc = 0; s->ranges && s->all_next < s->ranges->nr; )
    {
        r = s->ranges->r[s->all_next];
        rc = do_cycle(s, d, r, op, s->all_inside);
        s->all_inside = rc == -ERESTART;
        if ( rc )
            break;
        if ( op_does[op] & DO_REPORT )
        {
            s->all_total += r->found & CDA_RESULT_COUNT;
            s->all_total |= r->found & CDA_RESULT_LOST;
        }
        if ( ++s->all_next < s->ranges->nr && hypercall_preempt_check() )
        {
            rc = -ERESTART;
            break;
        }
    }

    if ( rc == -ERESTART )
        *ticket = s->all_ticket = ++s->tickets;
    else
        s->all_op = 0;

    return rc ?: s->all_total;
}

/*
 * Registering.
 */

static bool overlaps(unsigned long a, unsigned long a_end,
                     unsigned long b, unsigned long b_end)
{
    return a < b_end && b < a_end;
}

static long op_register(struct cda_session *s, struct domain *d,
                        unsigned long uarg)
{
    struct cda_domain *cda = d->arch.pv.cda;
    struct cda_register reg;
    struct cda_ranges *tab = s->ranges, *grown;
    struct cda_range *r;
    unsigned int i, nr = tab ? tab->nr : 0, nr_chunks;
    unsigned long base, end, log_end, kib;
    s_time_t now = NOW();
    bool words, heat;
    long rc;

    if ( copy_from_guest_pv(&reg, (void __user *)uarg, sizeof(reg)) )
        return -EFAULT;

    if ( reg.size != sizeof(reg) || reg.flags || reg.reserved[0] ||
         reg.reserved[1] || reg.mode >= 32 || !(CDA_MODES & (1u << reg.mode)) )
        return -EINVAL;
    if ( !(s->modes & (1u << reg.mode)) )
        return -EPERM;

    /* Compare before adding: nothing here may wrap. */
    if ( !reg.pages || (reg.start & ~PAGE_MASK) || reg.start >= VA_END ||
         reg.pages > (VA_END - reg.start) >> PAGE_SHIFT ||
         (reg.log & 63) || reg.log >= VA_END ||
         reg.log_bytes < sizeof(struct cda_log) ||
         reg.log_bytes > VA_END - reg.log )
        return -EINVAL;

    end = reg.start + (reg.pages << PAGE_SHIFT);
    log_end = reg.log + reg.log_bytes;

    if ( overlaps(reg.start, end, reg.log, log_end) )
        return -EEXIST;
    for ( i = 0; i < nr; ++i )
    {
        const struct cda_range *o = tab->r[i];
        unsigned long o_log_end = (unsigned long)log_at(o, o->log_entries);

        if ( overlaps(reg.start, end, o->start, o->end) ||
             overlaps(reg.start, end, o->log, o_log_end) ||
             overlaps(reg.log, log_end, o->start, o->end) ||
             overlaps(reg.log, log_end, o->log, o_log_end) )
            return -EEXIST;
    }

    if ( nr >= s->max_ranges || s->next_id == ~0u )
        return -ENOSPC;
    if ( atomic_read(&s->going) > MAX_GOING || s->paid > now + MAX_AHEAD )
        return -EAGAIN;

    words = reg.mode == CDA_MODE_EMULXEN;
    heat = reg.mode == CDA_MODE_SCANXEN || reg.mode == CDA_MODE_AUTOXEN;
    base = reg.start & ~((1UL << CHUNK_SHIFT) - 1);
    nr_chunks = (end - base + (1UL << CHUNK_SHIFT) - 1) >> CHUNK_SHIFT;
    /* With the table of ranges, which is there twice when it is replaced. */
    kib = (nr_chunks * (sizeof(**r->want) + sizeof(**r->chunk) +
                        (heat ? sizeof(struct cda_heat) : 0UL)) +
           (words ? sizeof(*r->words) +
                    2UL * MAX_WORDS * sizeof(struct cda_word) : 0) +
           sizeof(*r) + 2 * (nr + 1) * sizeof(r)) / 1024 + 1;

    /* Charge first, so that no allocation happens beyond the quota. */
    spin_lock(&cda->lock);
    rc = -ENOSPC;
    if ( reg.pages <= s->max_pages - s->pages &&
         cda->used_pages <= cda->max_pages &&
         reg.pages <= cda->max_pages - cda->used_pages &&
         cda->used_word_logs + words <= MAX_WORD_LOGS &&
         atomic_read(&cda->kib) + kib <= max_kib(cda) )
    {
        atomic_add(kib, &cda->kib);
        cda->used_pages += reg.pages;
        cda->used_word_logs += words;
        s->pages += reg.pages;
        rc = 0;
    }
    spin_unlock(&cda->lock);
    if ( rc )
        return rc;

    r = zalloc(sizeof(*r));
    grown = zalloc(offsetof(struct cda_ranges, r[nr + 1]));
    if ( !r || !grown )
        goto nomem;

    r->session = s;
    r->id = s->next_id;
    r->start = reg.start;
    r->end = end;
    r->pages = reg.pages;
    r->base = base;
    r->nr_chunks = nr_chunks;
    r->log = reg.log;
    r->log_entries = (reg.log_bytes - sizeof(struct cda_log)) /
                     sizeof(uint64_t);
    r->mode = reg.mode;
    r->kib = kib;
    r->want = alloc_pieces(nr_chunks, WANTS_SHIFT, sizeof(**r->want));
    r->chunk = alloc_pieces(nr_chunks, CHUNKS_SHIFT, sizeof(**r->chunk));
    if ( !r->want || !r->chunk )
        goto nomem;
    if ( words )
    {
        r->words = zalloc(sizeof(*r->words));
        if ( !r->words )
            goto nomem;
        spin_lock_init(&r->words->lock);
        for ( i = 0; i < ARRAY_SIZE(r->words->at); ++i )
        {
            r->words->at[i] = alloc_pieces(MAX_WORDS, WORDS_SHIFT,
                                           sizeof(struct cda_word));
            if ( !r->words->at[i] )
                goto nomem;
        }
    }

    for ( i = 0; i < r->nr_chunks; ++i )
    {
        struct cda_chunk *c = chunk_at(r, i);

        *want_at(r, i) = WANT_TOUCHED;
        c->l1 = INVALID_MFN;
        c->range = r;
        c->n = i;
        c->lo = i ? 0 : l1_table_offset(reg.start);
        c->hi = i + 1 < r->nr_chunks ? CHUNK_PAGES
                                     : l1_table_offset(end - 1) + 1;
        if ( heat && (c->heat = zalloc(sizeof(*c->heat))) == NULL )
            goto nomem;
    }

    grown->nr = nr + 1;
    for ( i = 0; i < nr && tab->r[i]->start < reg.start; ++i )
        grown->r[i] = tab->r[i];
    grown->r[i] = r;
    for ( ; i < nr; ++i )
        grown->r[i + 1] = tab->r[i];

    abandon_all(s);
    s->paid = max(s->paid, now) + kib * NS_PER_KIB;
    s->next_id++;
    rcu_assign_pointer(s->ranges, grown);
    if ( tab )
        call_rcu(&tab->rcu, free_ranges_rcu);

    return r->id;

 nomem:
    if ( r )
        free_some(r, ~0u);
    xfree(grown);
    atomic_sub(kib, &cda->kib);
    spin_lock(&cda->lock);
    cda->used_pages -= reg.pages;
    cda->used_word_logs -= words;
    s->pages -= reg.pages;
    spin_unlock(&cda->lock);

    return -ENOMEM;
}

/* Takes back what @r was granted and forgets it.  Preemptible. */
static long drop_range(struct cda_session *s, struct domain *d,
                       struct cda_range *r)
{
    struct cda_domain *cda = d->arch.pv.cda;
    struct cda_ranges *tab = s->ranges, *shrunk = NULL;
    unsigned int i, j;

    if ( r->cont != CDA_OP_unregister )
    {
        r->cont = CDA_OP_unregister;
        r->cursor = 0;
    }

    for ( i = r->cursor; i < r->nr_chunks; ++i )
    {
        take_back_chunk(d, chunk_at(r, i), 0);
        /* Should nobody come back for the rest, all of it is dirty. */
        ACCESS_ONCE(*want_at(r, i)) = WANT_TOUCHED;
        if ( hypercall_preempt_check() )
        {
            r->cursor = i + 1;
            flush(s, d);
            return -ERESTART;
        }
    }

    /* Nothing is left to grant: s->lock keeps new CDA_L1E_RO from appearing. */
    flush(s, d);

    if ( tab->nr > 1 )
    {
        shrunk = zalloc(offsetof(struct cda_ranges, r[tab->nr - 1]));
        if ( !shrunk )
            return -ENOMEM;
        shrunk->nr = tab->nr - 1;
        for ( i = j = 0; i < tab->nr; ++i )
            if ( tab->r[i] != r )
                shrunk->r[j++] = tab->r[i];
    }

    abandon_all(s);
    rcu_assign_pointer(s->ranges, shrunk);
    for ( i = 0; i < r->nr_chunks; ++i )
        unbind(cda, chunk_at(r, i));

    spin_lock(&cda->lock);
    cda->used_pages -= r->pages;
    cda->used_word_logs -= !!r->words;
    s->pages -= r->pages;
    spin_unlock(&cda->lock);

    call_rcu(&tab->rcu, free_ranges_rcu);
    free_range_later(r);

    return 0;
}

/* All of them at once, without needing memory for it. */
static long drop_all(struct cda_session *s, struct domain *d)
{
    struct cda_domain *cda = d->arch.pv.cda;
    struct cda_ranges *tab = s->ranges;
    unsigned int i, j;

    if ( !tab )
        return 0;
    if ( !take_back(s, d, &s->drop, s, 0, NULL) )
        return -ERESTART;

    /* Dom0 gets here without holding the address space, which may go. */
    spin_lock(&cda->lock);
    if ( s->dead )
    {
        /* The ranges go with the session. */
        spin_unlock(&cda->lock);
        return 0;
    }
    s->all_op = 0;
    rcu_assign_pointer(s->ranges, NULL);
    cda->used_pages -= s->pages;
    for ( i = 0; i < tab->nr; ++i )
        cda->used_word_logs -= !!tab->r[i]->words;
    s->pages = 0;
    spin_unlock(&cda->lock);

    for ( i = 0; i < tab->nr; ++i )
        for ( j = 0; j < tab->r[i]->nr_chunks; ++j )
            unbind(cda, chunk_at(tab->r[i], j));

    for ( i = 0; i < tab->nr; ++i )
        free_range_later(tab->r[i]);
    call_rcu(&tab->rcu, free_ranges_rcu);

    return 0;
}

/*
 * Attaching.
 */

/* Looks at every byte of every token, whatever matches. */
static struct cda_token *find_token(struct cda_domain *cda,
                                    const uint8_t *bytes)
{
    struct cda_token *found = NULL;
    s_time_t now = NOW();
    unsigned int i, j;

    for ( i = 0; i < MAX_TOKENS; ++i )
    {
        struct cda_token *t = &cda->token[i];
        uint8_t diff = !t->used | (now >= t->expires);

        for ( j = 0; j < CDA_TOKEN_BYTES; ++j )
            diff |= t->bytes[j] ^ bytes[j];
        if ( !diff )
            found = t;
    }

    return found;
}

static unsigned int sessions_with_tag(const struct cda_domain *cda,
                                      uint64_t tag)
{
    const struct cda_session *s;
    unsigned int i, n = 0;

    for ( i = 0; i < ARRAY_SIZE(cda->session); ++i )
        for ( s = cda->session[i]; s; s = s->hnext )
            n += s->tag == tag;

    return n;
}

static long op_attach(struct vcpu *curr, unsigned long uarg)
{
    struct domain *d = curr->domain;
    struct cda_domain *cda = d->arch.pv.cda;
    mfn_t l4 = pagetable_get_mfn(curr->arch.guest_table_user);
    static const uint8_t wiped[CDA_TOKEN_BYTES];
    void __user *to = (void __user *)uarg;
    struct cda_attach a;
    struct cda_session *s;
    struct cda_token *t;
    long rc = 0;

    if ( copy_from_guest_pv(&a, to, sizeof(a)) )
        return -EFAULT;
    if ( a.size != sizeof(a) || a.flags || a.reserved[0] || a.reserved[1] ||
         a.reserved[2] )
        return -EINVAL;

    s = zalloc(sizeof(*s));
    if ( !s )
        return -ENOMEM;

    spin_lock_init(&s->lock);
    spin_lock_init(&s->back_lock);
    atomic_set(&s->refs, 1);
    s->l4 = l4;
    s->born = NOW();
    s->cookie = ((uint64_t)get_random() << 32) | get_random();

    /*
     * Who finds the session from now on finds it locked, until the answer is
     * out or the session gone.
     */
    rcu_read_lock(&cda_rcu);
    if ( !spin_trylock(&s->lock) )
        ASSERT_UNREACHABLE();

    spin_lock(&cda->lock);
    t = find_token(cda, a.token);
    if ( !t )
        rc = -EACCES;
    else if ( find_session(cda, l4) )
        rc = -EEXIST;
    else if ( cda->used_sessions >= cda->max_sessions ||
              (t->max_sessions &&
               sessions_with_tag(cda, t->tag) >= t->max_sessions) )
        rc = -ENOSPC;
    else
    {
        struct cda_session **head = &cda->session[hash_mfn(l4)];

        s->cda = cda;
        atomic_inc(&cda->refs);
        s->id = ++cda->next_session;
        s->tag = t->tag;
        s->modes = t->modes ?: CDA_MODES;
        s->forward = cda->flags & CDA_LIMIT_FORWARD;
        s->max_pages = t->max_pages ? min(t->max_pages, cda->max_pages)
                                    : cda->max_pages;
        s->max_ranges = t->max_ranges ? min(t->max_ranges, cda->max_ranges)
                                      : cda->max_ranges;
        memset(t, 0, sizeof(*t));
        cda->used_sessions++;
        s->hnext = *head;
        rcu_assign_pointer(*head, s);
    }
    spin_unlock(&cda->lock);

    if ( rc )
    {
        spin_unlock(&s->lock);
        rcu_read_unlock(&cda_rcu);
        xfree(s);
        return rc;
    }

    /*
     * The cookie goes last, and as a whole or not at all: who reads it there
     * knows that there is a session.
     */
    memcpy(a.token, wiped, sizeof(wiped));
    a.max_pages = s->max_pages;
    if ( copy_to_guest_pv(to, &a, sizeof(a)) ||
         put_guest(s->cookie, (uint64_t __user *)
                              (uarg + offsetof(struct cda_attach, cookie))) )
    {
        spin_lock(&cda->lock);
        unlink_session(cda, s, false);
        spin_unlock(&cda->lock);
        rc = -EFAULT;
    }
    spin_unlock(&s->lock);
    rcu_read_unlock(&cda_rcu);

    return rc;
}

static long op_query(struct cda_session *s, struct domain *d,
                     unsigned long uarg)
{
    struct cda_query q;

    if ( copy_from_guest_pv(&q, (void __user *)uarg, sizeof(q)) )
        return -EFAULT;
    if ( q.size != sizeof(q) || q.flags || q.reserved[0] || q.reserved[1] )
        return -EINVAL;

    q.session = s->id;
    q.pages = s->pages;
    q.max_pages = s->max_pages;
    q.ranges = s->ranges ? s->ranges->nr : 0;
    q.max_ranges = s->max_ranges;
    q.counters = s->cnt;

    return copy_to_guest_pv((void __user *)uarg, &q, sizeof(q)) ? -EFAULT : 0;
}

/*
 * The gate.
 */

static long session_op(struct vcpu *curr, struct cpu_user_regs *regs,
                       struct cda_session *s)
{
    struct domain *d = curr->domain;
    unsigned int op = array_index_nospec(regs->rax, CDA_OP_query + 1);
    struct cda_range *r;

    if ( unlikely(regs->rdi != s->cookie) )
        return -EACCES;
    if ( unlikely(s->revoked) && op != CDA_OP_detach )
        return -CDA_EKEYREVOKED;
    if ( unlikely(regs->rdx | regs->r10) )
        return -EINVAL;

    COUNT(s, crossings);

    if ( likely(op >= CDA_OP_begin) && likely(op <= CDA_OP_peek) )
    {
        uint64_t ticket = regs->r8;
        long rc = op_cycle(s, d, op, regs->rsi, &ticket);

        if ( rc == -ERESTART )
            regs->r8 = ticket;
        return rc;
    }

    if ( unlikely(regs->r8) )
        return -EINVAL;

    switch ( op )
    {
    case CDA_OP_register:
        return op_register(s, d, regs->rsi);

    case CDA_OP_unregister:
        r = range_by_id(s, regs->rsi);
        return r ? drop_range(s, d, r) : -EBADF;

    case CDA_OP_query:
        return op_query(s, d, regs->rsi);

    case CDA_OP_detach:
    {
        long rc = regs->rsi ? -EINVAL : drop_all(s, d);

        if ( !rc )
        {
            spin_lock(&d->arch.pv.cda->lock);
            unlink_session(d->arch.pv.cda, s, false);
            spin_unlock(&d->arch.pv.cda->lock);
        }
        return rc;
    }
    }

    return -ENOSYS;
}

static long op_version(const struct cpu_user_regs *regs)
{
    if ( unlikely(!long_mode_process(regs)) )
        return -EOPNOTSUPP;

    return (regs->rdi | regs->rsi | regs->rdx | regs->r10 | regs->r8)
           ? -EINVAL : CDA_CAPS;
}

static long do_gate(struct vcpu *curr, struct cpu_user_regs *regs)
{
    struct cda_domain *cda = curr->domain->arch.pv.cda;
    mfn_t l4 = pagetable_get_mfn(curr->arch.guest_table_user);
    struct cda_session *s;
    long rc;

    if ( regs->rax > CDA_OP_query )
        return -ENOSYS;

    if ( regs->rax == CDA_OP_attach )
    {
        if ( !long_mode_process(regs) )
            return -EOPNOTSUPP;
        if ( regs->rsi | regs->rdx | regs->r10 | regs->r8 )
            return -EINVAL;
        return op_attach(curr, regs->rdi);
    }

    /* The session cannot be freed while this address space is loaded ... */
    rcu_read_lock(&cda_rcu);
    s = find_session(cda, l4);
    if ( unlikely(!s) )
    {
        rcu_read_unlock(&cda_rcu);
        return long_mode_process(regs) ? -ENOENT : -EOPNOTSUPP;
    }
    if ( unlikely(!spin_trylock(&s->lock)) )
    {
        rcu_read_unlock(&cda_rcu);
        /* Who holds a ticket would lose it by starting again. */
        return regs->r8 ? -ERESTART : -EAGAIN;
    }
    /* ... except by another thread's detach, which takes the lock. */
    rc = likely(!s->dead) ? session_op(curr, regs, s) : -ENOENT;
    if ( rc == -ERESTART )
        COUNT(s, restarts);
    spin_unlock(&s->lock);
    rcu_read_unlock(&cda_rcu);

    return rc;
}

static noinline void serve(struct vcpu *curr, struct cpu_user_regs *regs)
{
    bool ticketed = regs->rax >= CDA_OP_begin && regs->rax <= CDA_OP_peek;
    long rc = do_gate(curr, regs);

    if ( unlikely(rc == -ERESTART) )
        regs->rip -= 2;
    else
    {
        regs->rax = rc;
        /* However it ends, the caller gets back the zero it passed. */
        if ( ticketed )
            regs->r8 = 0;
    }
}

/* As if the gate had DPL 0. */
static noinline void impersonate(struct cpu_user_regs *regs)
{
    regs->rip -= 2;
    regs->eflags |= X86_EFLAGS_RF;
    regs->error_code = (CDA_VECTOR << 3) | X86_XEC_IDT;
    regs->entry_vector = X86_EXC_GP;
    do_general_protection(regs);
}

void asmlinkage do_entry_int84(struct cpu_user_regs *regs)
{
    struct vcpu *curr = current;

    /*
     * A kernel that installed the vector for itself goes first.  Domains which
     * Dom0 did not admit have no gate.
     */
    if ( unlikely(!opt_cda) || is_pv_32bit_vcpu(curr) ||
         unlikely(!ACCESS_ONCE(curr->domain->arch.pv.cda)) ||
         guest_kernel_mode(curr, regs) ||
         curr->arch.pv.trap_ctxt[CDA_VECTOR].address ||
         pagetable_is_null(curr->arch.guest_table_user) )
        impersonate(regs);
    else if ( regs->rax == CDA_OP_version )
        regs->rax = op_version(regs);
    else
        serve(curr, regs);
}

/*
 * Control.
 */

static struct cda_domain *admit(struct domain *d)
{
    /* The only one of more than a page, and contiguous. */
    struct cda_domain *cda = xzalloc(struct cda_domain);

    if ( !cda )
        return NULL;

    init_domain(cda);
    smp_wmb();
    if ( cmpxchg(&d->arch.pv.cda, NULL, cda) != NULL )
        xfree(cda);

    return d->arch.pv.cda;
}

void cda_domain_destroy(struct domain *d)
{
    struct cda_domain *cda = d->arch.pv.cda;
    unsigned int i;

    if ( !cda )
        return;

    /* L4 tables were all demoted; a session that is left lost its event. */
    spin_lock(&cda->lock);
    for ( i = 0; i < ARRAY_SIZE(cda->session); ++i )
        while ( cda->session[i] )
            unlink_session(cda, cda->session[i], true);
    spin_unlock(&cda->lock);

    d->arch.pv.cda = NULL;
    put_cda(cda);
}

static unsigned int drop_tokens(struct cda_domain *cda, uint64_t tag,
                                bool only_expired)
{
    unsigned int i, n = 0;
    s_time_t now = NOW();

    for ( i = 0; i < MAX_TOKENS; ++i )
    {
        struct cda_token *t = &cda->token[i];

        if ( t->used && (only_expired ? now >= t->expires
                                      : !tag || t->tag == tag) )
        {
            memset(t, 0, sizeof(*t));
            n++;
        }
    }

    return n;
}

static unsigned int count_tokens(const struct cda_domain *cda)
{
    unsigned int i, n = 0;

    for ( i = 0; i < MAX_TOKENS; ++i )
        n += cda->token[i].used;

    return n;
}

static int ctl_add_token(struct cda_domain *cda, const struct cda_ctl_token *t)
{
    static const uint8_t none[CDA_TOKEN_BYTES];
    unsigned int i, n;
    int rc = -ENOSPC;

    if ( !t->tag || !t->lifetime_ms || t->lifetime_ms > 3600000 ||
         (t->modes & ~CDA_MODES) ||
         !memcmp(t->token, none, sizeof(none)) )
        return -EINVAL;

    spin_lock(&cda->lock);
    drop_tokens(cda, 0, true);
    n = count_tokens(cda);
    if ( find_token(cda, t->token) )
        rc = -EEXIST;
    else if ( n < cda->max_tokens )
        for ( i = 0; i < MAX_TOKENS; ++i )
        {
            struct cda_token *slot = &cda->token[i];

            if ( slot->used )
                continue;
            memcpy(slot->bytes, t->token, sizeof(slot->bytes));
            slot->tag = t->tag;
            slot->max_pages = t->max_pages;
            slot->max_ranges = t->max_ranges;
            slot->max_sessions = t->max_sessions;
            slot->modes = t->modes;
            slot->expires = NOW() + MILLISECS(t->lifetime_ms);
            slot->used = true;
            rc = 0;
            break;
        }
    spin_unlock(&cda->lock);

    return rc;
}

/*
 * Ends sessions.  Marks first (operations and faults see it at once), then
 * takes back grants; the husk stays until the process notices or dies, so
 * that it is told why.  -ERESTART: call again.
 */
static int ctl_revoke(struct domain *d, struct cda_domain *cda,
                      struct cda_ctl_revoke *rv)
{
    struct cda_session *s;
    unsigned int i;
    int rc = 0;

    spin_lock(&cda->lock);
    if ( !rv->session )
        rv->tokens += drop_tokens(cda, rv->tag, false);
    for ( i = 0; i < ARRAY_SIZE(cda->session); ++i )
        for ( s = cda->session[i]; s; s = s->hnext )
            if ( (!rv->tag || s->tag == rv->tag) &&
                 (!rv->session || s->id == rv->session) && !s->revoked )
            {
                s->revoked = true;
                rv->sessions++;
            }
    spin_unlock(&cda->lock);

    rcu_read_lock(&cda_rcu);
    for ( i = 0; i < ARRAY_SIZE(cda->session) && !rc; ++i )
        for ( s = rcu_dereference(cda->session[i]); s && !rc;
              s = rcu_dereference(s->hnext) )
        {
            if ( !s->revoked || !s->ranges )
                continue;
            /* The guest gives the lock up at its next preemption point. */
            if ( !spin_trylock(&s->lock) )
                rc = -ERESTART;
            else
            {
                if ( !s->dead )
                    rc = drop_all(s, d);
                spin_unlock(&s->lock);
            }
        }
    rcu_read_unlock(&cda_rcu);

    return rc;
}

static int ctl_limits(struct cda_domain *cda, struct cda_ctl_limits *l,
                      bool set)
{
    int rc = 0;

    spin_lock(&cda->lock);
    if ( set )
    {
        if ( (l->flags & ~CDA_LIMIT_FORWARD) || l->max_tokens > MAX_TOKENS ||
             l->max_ranges > MAX_RANGES )
            rc = -EINVAL;
        else
        {
            cda->flags = l->flags;
            cda->max_sessions = l->max_sessions;
            cda->max_pages = l->max_pages;
            cda->max_ranges = l->max_ranges;
            cda->max_tokens = l->max_tokens;
        }
    }
    drop_tokens(cda, 0, true);
    l->flags = cda->flags;
    l->max_sessions = cda->max_sessions;
    l->max_pages = cda->max_pages;
    l->max_ranges = cda->max_ranges;
    l->max_tokens = cda->max_tokens;
    l->used_pages = cda->used_pages;
    l->used_sessions = cda->used_sessions;
    l->used_tokens = count_tokens(cda);
    spin_unlock(&cda->lock);

    return rc;
}

static int ctl_list(struct cda_domain *cda, struct cda_ctl_list *l)
{
    XEN_GUEST_HANDLE_PARAM(uint8) out;
    const struct cda_session *s;
    unsigned int i;
    int rc = 0;

    if ( l->reserved )
        return -EINVAL;

    set_xen_guest_handle(out, (void *)l->buffer);
    l->count = l->total = 0;

    rcu_read_lock(&cda_rcu);
    for ( i = 0; i < ARRAY_SIZE(cda->session) && !rc; ++i )
        for ( s = rcu_dereference(cda->session[i]); s;
              s = rcu_dereference(s->hnext) )
        {
            const struct cda_ranges *tab = rcu_dereference(s->ranges);
            struct cda_ctl_session e = {
                .session = s->id,
                .tag = s->tag,
                .pages = s->pages,
                .age_ms = (NOW() - s->born) / MILLISECS(1),
                .ranges = tab ? tab->nr : 0,
                .flags = s->revoked ? CDA_SESSION_ENDED : 0,
                .counters = s->cnt,
            };

            l->total++;
            if ( l->count >= l->capacity )
                continue;
            if ( copy_to_guest_offset(out, l->count * sizeof(e),
                                      (const uint8_t *)&e, sizeof(e)) )
            {
                rc = -EFAULT;
                break;
            }
            l->count++;
        }
    rcu_read_unlock(&cda_rcu);

    return rc;
}

static int ctl_counters(struct cda_domain *cda, struct cda_ctl_counters *c)
{
    const struct cda_session *s;
    uint64_t *to = (uint64_t *)&c->counters;
    unsigned int i, j;

    spin_lock(&cda->lock);
    c->counters = cda->gone;
    for ( i = 0; i < ARRAY_SIZE(cda->session); ++i )
        for ( s = cda->session[i]; s; s = s->hnext )
            for ( j = 0; j < sizeof(s->cnt) / sizeof(*to); ++j )
                to[j] += ((const uint64_t *)&s->cnt)[j];
    spin_unlock(&cda->lock);

    return 0;
}

long do_cda_op(unsigned int cmd, XEN_GUEST_HANDLE_PARAM(void) uarg)
{
    static const uint8_t sizes[] = {
        [CDA_CTL_add_token]  = sizeof(struct cda_ctl_token),
        [CDA_CTL_revoke]     = sizeof(struct cda_ctl_revoke),
        [CDA_CTL_set_limits] = sizeof(struct cda_ctl_limits),
        [CDA_CTL_get_limits] = sizeof(struct cda_ctl_limits),
        [CDA_CTL_list]       = sizeof(struct cda_ctl_list),
        [CDA_CTL_counters]   = sizeof(struct cda_ctl_counters),
    };
    union {
        struct { uint32_t size, domid; } h;
        struct cda_ctl_token token;
        struct cda_ctl_revoke revoke;
        struct cda_ctl_limits limits;
        struct cda_ctl_list list;
        struct cda_ctl_counters counters;
    } u;
    struct cda_domain *cda;
    struct domain *d;
    unsigned int size;
    long rc;

    if ( !opt_cda )
        return -ENOSYS;

    rc = xsm_cda_op(XSM_PRIV);
    if ( rc )
        return rc;

    if ( cmd == CDA_CTL_version )
        return guest_handle_is_null(uarg) ? CDA_CAPS : -EINVAL;
    if ( cmd >= ARRAY_SIZE(sizes) )
        return -ENOSYS;

    size = sizes[cmd];
    if ( raw_copy_from_guest(&u, uarg.p, size) )
        return -EFAULT;
    if ( u.h.size != size )
        return -EINVAL;

    d = rcu_lock_domain_by_any_id(u.h.domid == (domid_t)u.h.domid
                                  ? u.h.domid : DOMID_INVALID);
    if ( !d )
        return -ESRCH;

    rc = -EOPNOTSUPP;
    if ( !is_pv_domain(d) || is_pv_32bit_domain(d) )
        goto out;

    cda = d->arch.pv.cda;
    if ( !cda )
    {
        /* Looking at a domain that was never admitted allocates nothing. */
        if ( cmd != CDA_CTL_add_token && cmd != CDA_CTL_set_limits )
            cda = &not_admitted;
        else
        {
            rc = -ESRCH;
            if ( d->is_dying )
                goto out;
            rc = -ENOMEM;
            if ( (cda = admit(d)) == NULL )
                goto out;
        }
    }

    switch ( cmd )
    {
    case CDA_CTL_add_token:
        rc = ctl_add_token(cda, &u.token);
        size = 0;
        break;
    case CDA_CTL_revoke:
        rc = ctl_revoke(d, cda, &u.revoke);
        break;
    case CDA_CTL_set_limits:
        rc = ctl_limits(cda, &u.limits, true);
        break;
    case CDA_CTL_get_limits:
        rc = ctl_limits(cda, &u.limits, false);
        break;
    case CDA_CTL_list:
        rc = ctl_list(cda, &u.list);
        break;
    case CDA_CTL_counters:
        rc = ctl_counters(cda, &u.counters);
        break;
    }

    if ( (!rc || rc == -ERESTART) && raw_copy_to_guest(uarg.p, &u, size) )
        rc = -EFAULT;
    if ( rc == -ERESTART )
        rc = hypercall_create_continuation(__HYPERVISOR_cda_op, "ih", cmd,
                                           uarg);

 out:
    rcu_unlock_domain(d);

    return rc;
}

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * tab-width: 4
 * indent-tabs-mode: nil
 * End:
 */
