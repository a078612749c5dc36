/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * arch/x86/cda/range.c (included by the backend, see private.h)
 *
 * Ranges: registering within the quotas, unregistering, and the end of all of
 * them.  A session's table of ranges is never changed but replaced, as faults
 * look at it under RCU.
 *
 * Locks: session->lock; cda->lock for the quotas.
 */

#define MAX_GOING         4096     /* KiB of former ranges which RCU holds */

/* Who registers in a loop has 64 MiB at once, then so much a second. */
#define NS_PER_KIB        15000
#define MAX_AHEAD         MILLISECS(1000)

static bool cda_overlaps(unsigned long a, unsigned long a_end,
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

    if ( cda_overlaps(reg.start, end, reg.log, log_end) )
        return -EEXIST;
    for ( i = 0; i < nr; ++i )
    {
        const struct cda_range *o = tab->r[i];
        unsigned long o_log_end = (unsigned long)log_at(o, o->log_entries);

        if ( cda_overlaps(reg.start, end, o->start, o->end) ||
             cda_overlaps(reg.start, end, o->log, o_log_end) ||
             cda_overlaps(reg.log, log_end, o->start, o->end) ||
             cda_overlaps(reg.log, log_end, o->log, o_log_end) )
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

    r = cda_zalloc(sizeof(*r));
    grown = cda_zalloc(offsetof(struct cda_ranges, r[nr + 1]));
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
        r->words = cda_zalloc(sizeof(*r->words));
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
        if ( heat && (c->heat = cda_zalloc(sizeof(*c->heat))) == NULL )
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
        cda_free_some(r, ~0u);
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
            cda_flush(s, d);
            return -ERESTART;
        }
    }

    /* Nothing is left to grant: s->lock keeps new CDA_L1E_RO from appearing. */
    cda_flush(s, d);

    if ( tab->nr > 1 )
    {
        shrunk = cda_zalloc(offsetof(struct cda_ranges, r[tab->nr - 1]));
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
        cda_unbind(cda, chunk_at(r, i));

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
            cda_unbind(cda, chunk_at(tab->r[i], j));

    for ( i = 0; i < tab->nr; ++i )
        free_range_later(tab->r[i]);
    call_rcu(&tab->rcu, free_ranges_rcu);

    return 0;
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
