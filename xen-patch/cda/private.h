/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * arch/x86/cda/private.h
 *
 * What the common part of application checkpointing and who tracks pages
 * share: types, limits, look-ups.
 *
 * The common part (the other files of this directory) owns domains, sessions,
 * ranges, quotas, cycles, logs, the operations of the gate and the control
 * hypercall.  Tracking pages is a backend's, one for each type of guest.
 *
 * The .c files here are templates: a backend includes them behind its own
 * functions, as mm/guest_walk_*.c include guest_walk.c, so that all of it is
 * one translation unit and no call is indirect.  Compiled apart, calls between
 * the files are not inlined, which was measured to cost 36 instructions (of
 * 172) at each crossing of the gate and 150 (of 1,575) at the commit of a page.
 *
 * What the common part may not know: how a write is noticed, what authority to
 * write looks like and where it is kept, how the caller got here.
 * What a backend may not know: tokens, quotas, tickets, preemption.
 *
 * Before it includes this file a backend defines
 *   struct track_domain    what it keeps of a domain
 *   struct track_range     what it keeps of a range
 *   struct cda_walk        one cycle on its way through a range
 * and behind it the functions which are declared at the end.  A chunk is
 * 1 << CHUNK_SHIFT bytes of address space, the unit in which cycles look and
 * authority is taken back; how it is watched is the backend's.
 */
#ifndef __X86_CDA_PRIVATE_H__
#define __X86_CDA_PRIVATE_H__

#include <xen/compiler.h>
#include <xen/event.h>
#include <xen/guest_access.h>
#include <xen/hypercall.h>
#include <xen/lib.h>
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

#define CHUNK_SHIFT       21
#define CHUNK_SIZE        (1UL << CHUNK_SHIFT)
#define CHUNK_PAGES       (1u << (CHUNK_SHIFT - PAGE_SHIFT))
#define CHUNKS_PER_CHECK  64u      /* a look at so many takes little time */
#define VA_END            (1UL << 47)

#define HASH_BITS         8
#define FORKS_AT_ONCE     4u       /* of a process, without starting over */
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

/* Stores performed by Xen.  A backend appends under `lock`. */
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
    struct track_range track;
    struct cda_words *words;      /* Emulxen */
};

struct cda_ranges {               /* sorted by address, replaced as a whole */
    struct rcu_head rcu;
    unsigned int nr;
    struct cda_range *r[];
};

struct cda_session {
    struct rcu_head rcu;
    struct cda_session *hnext;    /* hash chain by root */
    unsigned long root;           /* which address space, see caller_root() */
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
    /* take_back() that was interrupted: at the session's end, by forks. */
    spinlock_t back_lock;
    struct cda_back {
        const void *for_what;
        unsigned long va;
        bool counted;
    } drop, fork[FORKS_AT_ONCE];
    unsigned int last_fork;       /* the place in `fork` that was taken last */
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
    struct cda_session *session[1 << HASH_BITS];
    struct cda_token token[MAX_TOKENS];
    uint32_t flags, max_sessions, max_ranges, max_tokens;
    uint64_t max_pages, used_pages;
    uint32_t used_sessions, used_word_logs;
    atomic_t kib, refs;           /* memory of ranges; sessions, the domain */
    uint64_t next_session;
    struct cda_counters gone;     /* of sessions that ended */
    struct track_domain track;
};

static DEFINE_RCU_READ_LOCK(cda_rcu);

#define COUNT(s, what) \
    asm volatile ( "lock incq %0" : "+m" ((s)->cnt.what) )
#define COUNT_N(s, what, n) \
    asm volatile ( "lock addq %1, %0" : "+m" ((s)->cnt.what) \
                   : "er" ((uint64_t)(n)) )

static unsigned int hash_of(unsigned long nr)
{
    return (nr ^ (nr >> HASH_BITS)) & ((1 << HASH_BITS) - 1);
}

/*
 * Look-ups, under RCU.
 */

static struct cda_session *find_session(const struct cda_domain *cda,
                                        unsigned long root)
{
    struct cda_session *s = rcu_dereference(cda->session[hash_of(root)]);

    while ( s && s->root != root )
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
 * What a backend calls besides.
 */

/* @nr elements of @size, 1 << @shift in a piece; NULL: no memory. */
static void *alloc_pieces(unsigned int nr, unsigned int shift, size_t size);
static void free_pieces(void *pieces, unsigned int nr, unsigned int shift);
static void *cda_zalloc(size_t bytes);
/* Of all of @s; see track_take_back() for @heir.  False: call again. */
static bool take_back(struct cda_session *s, struct domain *d,
                      const void *heir);
/* The address space of @s is @gone, or its own thread wants it to end. */
static void unlink_session(struct cda_domain *cda, struct cda_session *s,
                           bool gone);
static void init_domain(struct cda_domain *cda);
static long op_version(const struct cpu_user_regs *regs);
/* One operation.  True: the process shall execute the instruction again. */
static bool cda_serve(struct vcpu *curr, struct cpu_user_regs *regs);

/*
 * What a backend defines.
 */

/* Which address space calls, as long as it exists: a number, 0 for none. */
static unsigned long caller_root(const struct vcpu *v);
/* May its process be served?  Pointers and registers of 32 bits differ. */
static bool caller_is_64bit(const struct cpu_user_regs *regs);
/*
 * Its memory, as it may access it itself.  Not 0: not all of it could be
 * accessed.  No lock may be held which a fault takes.
 */
static unsigned int copy_in(void *to, unsigned long from, unsigned int bytes);
static unsigned int copy_out(unsigned long to, const void *from,
                             unsigned int bytes);
/* In one store. */
static int put_word(unsigned long to, uint64_t value);

/* Is @d a guest of the type which this backend tracks? */
static bool track_possible(const struct domain *d);
/* 0, or why no cycle may run in @d now. */
static int track_refused(const struct domain *d);
static void track_init(struct track_domain *t);

/* Bytes which so many chunks take in @mode. */
static unsigned long track_bytes(unsigned int nr_chunks, unsigned int mode);
/* False: no memory, and track_free() is still to be called. */
static bool track_alloc(struct cda_range *r);
/*
 * Nobody can find @r any more.  Frees @most pieces of a page, and goes on from
 * r->cursor when it is called again.  True: nothing is left.
 */
static bool track_free(struct cda_range *r, unsigned int most);
/* Nothing leads to @r any more from what the backend keeps of the domain. */
static void track_forget(struct cda_domain *cda, struct cda_range *r);

/*
 * A cycle of @r, from chunk @n on.  walk_next() moves @n on to the next chunk
 * which is not known to be clean.  False: there is none up to @n, where it
 * stopped after CHUNKS_PER_CHECK at most.
 */
static void walk_begin(struct cda_walk *w, struct domain *d,
                       const struct cda_range *r, unsigned int n);
static bool walk_next(struct cda_walk *w, const struct cda_range *r,
                      unsigned int *n);
/*
 * Pages of chunk @n which are dirty, into @map; with DO_PROTECT in @what these
 * are noticed again from the next flush on.  Bits of pages which are not the
 * range's stay 0.  Sets w->changed if there must be a flush, and w->refused
 * if there are pages which cannot be tracked.
 */
static void walk_sync(struct cda_walk *w, struct cda_range *r, unsigned int n,
                      unsigned int what, unsigned long *map);
static void walk_end(struct cda_walk *w);

/* The next cycle finds all of chunk @n dirty. */
static void track_touch(struct cda_range *r, unsigned int n);
/*
 * Takes back what Xen granted or could grant in chunk @n.  Without @heir for
 * good: the next cycle finds all of it dirty.  With @heir, a new address space
 * which may begin as a copy of the caller's, only if it may share pages of this
 * chunk (else false); they stay tracked.  There must be a flush after it.
 */
static bool track_take_back(struct domain *d, struct cda_range *r,
                            unsigned int n, const void *heir);
/* What was taken back or protected cannot be written from here on. */
static void track_flush(const struct domain *d);

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
