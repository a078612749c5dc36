/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * arch/x86/cda/memory.c (included by the backend, see private.h)
 *
 * Memory which a process makes Xen allocate: in pieces, within a quota (see
 * op_register() for what is charged), and freed by RCU a little at a time.
 *
 * Locks: none.  A range is freed when nobody can find it any more.
 */

#define FREED_AT_ONCE     2u       /* pieces, by one RCU callback */

/*
 * Memory of Xen's for the ranges of a domain: this, and a 64th of the pages
 * which it may track.  Ranges of usual sizes take a 1000th.
 */
#define BASE_KIB          4096

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
static void *cda_zalloc(size_t bytes)
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

static void *alloc_pieces(unsigned int nr, unsigned int shift, size_t size)
{
    void **piece = cda_zalloc(pieces_of(nr, shift) * sizeof(*piece));
    unsigned int i;

    for ( i = 0; piece && i < pieces_of(nr, shift); ++i )
    {
        piece[i] = cda_zalloc(min(nr - (i << shift), 1u << shift) * size);
        if ( !piece[i] )
        {
            free_pieces(piece, nr, shift);
            return NULL;
        }
    }

    return piece;
}

/* True: nothing is left of @r.  Its cursor has done its work. */
static bool cda_free_some(struct cda_range *r, unsigned int most)
{
    unsigned int i;

    if ( !track_free(r, most) )
        return false;

    if ( r->words )
        for ( i = 0; i < ARRAY_SIZE(r->words->at); ++i )
            free_pieces(r->words->at[i], MAX_WORDS, WORDS_SHIFT);
    xfree(r->words);
    xfree(r);

    return true;
}

static unsigned long max_kib(const struct cda_domain *cda)
{
    return BASE_KIB + min(cda->max_pages, (uint64_t)1 << 33) / 16;
}

static void put_session(struct cda_session *s);

/* Again and again, so that no CPU is kept for long. */
static void cf_check free_range_rcu(struct rcu_head *head)
{
    struct cda_range *r = container_of(head, struct cda_range, rcu);
    struct cda_session *s = r->session;
    unsigned int kib = r->kib;

    if ( !cda_free_some(r, FREED_AT_ONCE) )
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

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * tab-width: 4
 * indent-tabs-mode: nil
 * End:
 */
