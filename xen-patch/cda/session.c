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
    track_init(&cda->track);
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
    if ( cmpxchg(&d->arch.cda, NULL, cda) != NULL )
        xfree(cda);

    return d->arch.cda;
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
    track_flush(d);
}

/*
 * Where take_back() keeps how far it got for @heir, under s->back_lock.  With
 * @make a place is given to it: processes that begin at the same time must not
 * make each other begin again.
 */
static struct cda_back *find_back(struct cda_session *s, const void *heir,
                                  bool make)
{
    unsigned int i;

    if ( !heir )
        return &s->drop;

    for ( i = 0; i < FORKS_AT_ONCE; ++i )
        if ( s->fork[i].for_what == heir )
            return &s->fork[i];
    if ( !make )
        return NULL;

    for ( i = 0; i < FORKS_AT_ONCE; ++i )
        if ( !s->fork[i].for_what )
            return &s->fork[i];
    return &s->fork[++s->last_fork % FORKS_AT_ONCE];
}

/*
 * track_take_back() for all of session @s.  Preemptible: false means "call
 * again", with the same @heir, which tells one run from another.
 */
static bool take_back(struct cda_session *s, struct domain *d,
                      const void *heir)
{
    struct cda_ranges *tab = rcu_dereference(s->ranges);
    const void *for_what = heir ?: s;
    struct cda_back *back;
    bool took = false, counted = false;
    unsigned int i, j, n = 0;
    unsigned long va = 0;

    spin_lock(&s->back_lock);
    back = find_back(s, heir, false);
    if ( back && back->for_what == for_what )
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
            unsigned long at = r->base + ((unsigned long)j << CHUNK_SHIFT);

            if ( n++ && hypercall_preempt_check() )
            {
                spin_lock(&s->back_lock);
                back = find_back(s, heir, true);
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
            if ( !track_take_back(d, r, j, heir) )
                continue;
            took = true;
            if ( heir && !counted )
                COUNT(s, forks);
            counted = true;
        }
        va = r->end;
    }

    spin_lock(&s->back_lock);
    back = find_back(s, heir, false);
    if ( back && back->for_what == for_what )
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
    struct cda_session **pp = &cda->session[hash_of(s->root)];
    const uint64_t *from = (const uint64_t *)&s->cnt;
    uint64_t *to = (uint64_t *)&cda->gone;
    unsigned int i;

    ASSERT(spin_is_locked(&cda->lock));
    ASSERT(!s->dead);
    ASSERT(gone ||
           (spin_is_locked(&s->lock) && s->root == caller_root(current)));

    while ( *pp != s )
        pp = &(*pp)->hnext;
    *pp = s->hnext;
    s->dead = true;

    for ( i = 0; s->ranges && i < s->ranges->nr; ++i )
    {
        cda->used_word_logs -= !!s->ranges->r[i]->words;
        track_forget(cda, s->ranges->r[i]);
    }

    cda->used_sessions--;
    cda->used_pages -= s->pages;
    for ( i = 0; i < sizeof(s->cnt) / sizeof(*to); ++i )
        to[i] += from[i];

    call_rcu(&s->rcu, free_session_rcu);
}

void cda_domain_destroy(struct domain *d)
{
    struct cda_domain *cda = d->arch.cda;
    unsigned int i;

    if ( !cda )
        return;

    /* No address space is left; a session that is left lost its event. */
    spin_lock(&cda->lock);
    for ( i = 0; i < ARRAY_SIZE(cda->session); ++i )
        while ( cda->session[i] )
            unlink_session(cda, cda->session[i], true);
    spin_unlock(&cda->lock);

    d->arch.cda = NULL;
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
