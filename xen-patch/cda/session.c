/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * arch/x86/cda/session.c (included by the backend, see private.h)
 *
 * Domains which Dom0 admitted, and sessions: one for each address space that
 * attached.  How they begin and end, and what is taken back from a process
 * whose session ends or which forks.
 *
 * Locks: cda->lock for the chains of sessions and for what they use of a
 * domain's quotas; back_lock for how far take_back() got.  A session is found
 * under RCU, and freed when its last range is.
 */

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

static struct cda_domain *cda_admit(struct domain *d)
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

static void cda_flush(struct cda_session *s, const struct domain *d)
{
    COUNT(s, flushes);
    /* Plain FLUSH_TLB reaches global entries as well. */
    flush_tlb_mask(d->dirty_cpumask);
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
                    cda_flush(s, d);
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
        cda_flush(s, d);

    return true;
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
            cda_unbind(cda, chunk_at(s->ranges->r[i], j));
    }

    cda->used_sessions--;
    cda->used_pages -= s->pages;
    for ( i = 0; i < sizeof(s->cnt) / sizeof(*to); ++i )
        to[i] += from[i];

    call_rcu(&s->rcu, free_session_rcu);
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

/*
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * tab-width: 4
 * indent-tabs-mode: nil
 * End:
 */
