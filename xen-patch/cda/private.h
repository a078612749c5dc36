/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * arch/x86/cda/private.h
 *
 * What the common part of application checkpointing and who tracks pages
 * share: types, limits, look-ups.
 *
 * The common part (the other files of this directory) owns domains, sessions,
 * ranges, quotas, cycles, logs, the operations of the gate and the control
 * hypercall.  Tracking pages is a backend's: pv/pagefault_cda.c does it by the
 * L1 entries of 64-bit PV guests.
 *
 * The .c files here are templates: the backend includes them behind its own
 * functions, as mm/guest_walk_*.c include guest_walk.c, so that all of it is
 * one translation unit.  Compiled apart, calls between the files are not
 * inlined, which was measured to cost 36 instructions (of 172) at each crossing
 * of the gate and 150 (of 1,575) at the commit of a page.
 *
 * What the common part takes from the backend:
 *   struct cda_chunk, chunk_at(), want_at(), cda_unbind()
 *                                      2 MiB of a range, and its page table
 *   map_table(), unmap_table(), unref_frame(), get_l2(), l2e_leads()
 *                                      which chunks a cycle has to look at
 *   sync_touched(), sync_replaced()    what is dirty in one; protects it again
 *   take_back_chunk(), may_share()     authority to write, and its end
 *   long_mode_process()                who calls
 * Besides it still names what is a PV guest's: d->arch.pv.cda, the root of the
 * caller's tables, copies to and from its memory, log-dirty mode.
 */
#ifndef __X86_CDA_PRIVATE_H__
#define __X86_CDA_PRIVATE_H__

#include <xen/compiler.h>
#include <xen/event.h>
#include <xen/guest_access.h>
#include <xen/hypercall.h>
#include <xen/lib.h>
#include <xen/mm.h>
#include <xen/nospec.h>
#include <xen/random.h>
#include <xen/rcupdate.h>
#include <xen/sched.h>
#include <xen/softirq.h>
#include <xen/time.h>
#include <xen/xmalloc.h>

#include <public/cda.h>

#include <xsm/xsm.h>

#define CDA_CAPS          (CDA_ABI_VERSION | CDA_CAP_PTXEN | \
                           CDA_CAP_EMULXEN | CDA_CAP_SCANXEN | CDA_CAP_AUTOXEN)

#define CDA_MODES         ((1u << CDA_MODE_PTXEN) | (1u << CDA_MODE_EMULXEN) | \
                           (1u << CDA_MODE_SCANXEN) | (1u << CDA_MODE_AUTOXEN))

#define CHUNK_SHIFT       L2_PAGETABLE_SHIFT
#define CHUNK_PAGES       L1_PAGETABLE_ENTRIES
#define VA_END            (1UL << 47)

#define HASH_BITS         8
#define MAX_TOKENS        64
#define MAX_RANGES        500      /* a table of them is one page at most */
#define MAX_WORDS         2048     /* stores logged in one cycle of a range */
#define WORDS_SHIFT       8        /* of which a page holds so many */
#define MAX_WORD_LOGS     64       /* ranges of a domain that have such a log */

#define DEFAULT_SESSIONS  64
#define DEFAULT_PAGES     (1UL << 20)          /* 4 GiB */
#define DEFAULT_RANGES    64

/* What an operation on a cycle does. */
#define DO_REPORT   1u
#define DO_PROTECT  2u

struct cda_chunk;
struct cda_heat;

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
    s_time_t paid;                /* when memory taken so far would be due */
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
    atomic_t kib, refs;           /* memory of ranges; sessions, the domain */
    uint64_t next_session;
    struct cda_counters gone;     /* of sessions that ended */
};

static DEFINE_RCU_READ_LOCK(cda_rcu);

#define COUNT(s, what) \
    asm volatile ( "lock incq %0" : "+m" ((s)->cnt.what) )
#define COUNT_N(s, what, n) \
    asm volatile ( "lock addq %1, %0" : "+m" ((s)->cnt.what) \
                   : "er" ((uint64_t)(n)) )

static unsigned int hash_mfn(mfn_t mfn)
{
    return (mfn_x(mfn) ^ (mfn_x(mfn) >> HASH_BITS)) & ((1 << HASH_BITS) - 1);
}

/*
 * Look-ups, under RCU.
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

/*
 * What a backend calls.
 */

static bool take_back(struct cda_session *s, struct domain *d,
                      struct cda_back *back, const void *for_what,
                      unsigned long mark, const struct page_info *l4);
static void unlink_session(struct cda_domain *cda, struct cda_session *s,
                           bool gone);

#endif /* __X86_CDA_PRIVATE_H__ */

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * tab-width: 4
 * indent-tabs-mode: nil
 * End:
 */
