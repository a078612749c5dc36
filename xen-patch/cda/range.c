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

/* 0, or what is wrong with @reg whatever else is registered. */
static int check_register(const struct cda_session *s,
                          const struct cda_register *reg)
{
    if ( reg->size != sizeof(*reg) || reg->flags || reg->reserved[0] ||
         reg->reserved[1] || reg->mode >= 32 ||
         !(CDA_MODES & (1u << reg->mode)) )
        return -EINVAL;
    if ( !(s->modes & (1u << reg->mode)) )
        return -EPERM;

    /* Compare before adding: nothing here may wrap. */
    if ( !reg->pages || (reg->start & ~PAGE_MASK) || reg->start >= VA_END ||
         reg->pages > (VA_END - reg->start) >> PAGE_SHIFT ||
         (reg->log & 63) || reg->log >= VA_END ||
         reg->log_bytes < sizeof(struct cda_log) ||
         reg->log_bytes > VA_END - reg->log )
        return -EINVAL;

    return 0;
}

/* Of range and log of @reg with each other, or with those in @tab. */
static bool register_overlaps(const struct cda_ranges *tab,
                              const struct cda_register *reg)
{
    unsigned long start = reg->start, log = reg->log;
    unsigned long end = start + (reg->pages << PAGE_SHIFT);
    unsigned long log_end = log + reg->log_bytes;
    unsigned int i;

    if ( cda_overlaps(start, end, log, log_end) )
        return true;
    for ( i = 0; tab && i < tab->nr; ++i )
    {
        const struct cda_range *o = tab->r[i];
        unsigned long o_log_end = log_at(o, o->log_entries);

        if ( cda_overlaps(start, end, o->start, o->end) ||
             cda_overlaps(start, end, o->log, o_log_end) ||
             cda_overlaps(log, log_end, o->start, o->end) ||
             cda_overlaps(log, log_end, o->log, o_log_end) )
            return true;
    }

    return false;
}

static bool charge(struct cda_session *s, uint64_t pages, unsigned int words,
                   unsigned int kib)
{
    struct cda_domain *cda = s->cda;
    bool fits;

    spin_lock(&cda->lock);
    fits = pages <= s->max_pages - s->pages &&
           cda->used_pages <= cda->max_pages &&
           pages <= cda->max_pages - cda->used_pages &&
           cda->used_word_logs + words <= MAX_WORD_LOGS &&
           atomic_read(&cda->kib) + (unsigned long)kib <= max_kib(cda);
    if ( fits )
    {
        atomic_add(kib, &cda->kib);
        cda->used_pages += pages;
        cda->used_word_logs += words;
        s->pages += pages;
    }
    spin_unlock(&cda->lock);

    return fits;
}

static void uncharge(struct cda_session *s, uint64_t pages, unsigned int words)
{
    struct cda_domain *cda = s->cda;

    spin_lock(&cda->lock);
    cda->used_pages -= pages;
    cda->used_word_logs -= words;
    s->pages -= pages;
    spin_unlock(&cda->lock);
}

static struct cda_words *alloc_words(void)
{
    struct cda_words *words = cda_zalloc(sizeof(*words));
    unsigned int i;

    if ( !words )
        return NULL;
    spin_lock_init(&words->lock);
    for ( i = 0; i < ARRAY_SIZE(words->at); ++i )
        words->at[i] = alloc_pieces(MAX_WORDS, WORDS_SHIFT,
                                    sizeof(struct cda_word));

    return words;
}

/* What @reg says; NULL: no memory. */
static struct cda_range *new_range(struct cda_session *s,
                                   const struct cda_register *reg,
                                   unsigned int nr_chunks, unsigned int kib)
{
    struct cda_range *r = cda_zalloc(sizeof(*r));

    if ( !r )
        return NULL;

    r->session = s;
    r->id = s->next_id;
    r->start = reg->start;
    r->end = reg->start + (reg->pages << PAGE_SHIFT);
    r->pages = reg->pages;
    r->base = reg->start & ~(CHUNK_SIZE - 1);
    r->nr_chunks = nr_chunks;
    r->log = reg->log;
    r->log_entries = (reg->log_bytes - sizeof(struct cda_log)) /
                     sizeof(uint64_t);
    r->mode = reg->mode;
    r->kib = kib;

    if ( !track_alloc(r) )
        goto nomem;
    if ( reg->mode == CDA_MODE_EMULXEN &&
         ((r->words = alloc_words()) == NULL ||
          !r->words->at[0] || !r->words->at[1]) )
        goto nomem;

    return r;

 nomem:
    cda_free_some(r, ~0u);
    return NULL;
}

/* Adds @r to the session's, with memory for the new table. */
static void insert_range(struct cda_session *s, struct cda_range *r,
                         struct cda_ranges *grown)
{
    struct cda_ranges *tab = s->ranges;
    unsigned int i, nr = tab ? tab->nr : 0;

    grown->nr = nr + 1;
    for ( i = 0; i < nr && tab->r[i]->start < r->start; ++i )
        grown->r[i] = tab->r[i];
    grown->r[i] = r;
    for ( ; i < nr; ++i )
        grown->r[i + 1] = tab->r[i];

    rcu_assign_pointer(s->ranges, grown);
    if ( tab )
        call_rcu(&tab->rcu, free_ranges_rcu);
}

static long op_register(struct cda_session *s, unsigned long uarg)
{
    struct cda_register reg;
    struct cda_ranges *grown;
    struct cda_range *r;
    unsigned int nr = s->ranges ? s->ranges->nr : 0, nr_chunks;
    unsigned long kib;
    s_time_t now = NOW();
    bool words;
    long rc;

    if ( copy_in(&reg, uarg, sizeof(reg)) )
        return -EFAULT;
    rc = check_register(s, &reg);
    if ( rc )
        return rc;
    if ( register_overlaps(s->ranges, &reg) )
        return -EEXIST;
    if ( nr >= s->max_ranges || s->next_id == ~0u )
        return -ENOSPC;
    if ( atomic_read(&s->going) > MAX_GOING || s->paid > now + MAX_AHEAD )
        return -EAGAIN;

    words = reg.mode == CDA_MODE_EMULXEN;
    nr_chunks = ((reg.start & (CHUNK_SIZE - 1)) +
                 (reg.pages << PAGE_SHIFT) + CHUNK_SIZE - 1) >> CHUNK_SHIFT;
    /* With the table of ranges, which is there twice when it is replaced. */
    kib = (track_bytes(nr_chunks, reg.mode) +
           (words ? sizeof(*r->words) +
                    2UL * MAX_WORDS * sizeof(struct cda_word) : 0) +
           sizeof(*r) + 2 * (nr + 1) * sizeof(r)) / 1024 + 1;

    /* Charge first, so that no allocation happens beyond the quota. */
    if ( !charge(s, reg.pages, words, kib) )
        return -ENOSPC;

    r = new_range(s, &reg, nr_chunks, kib);
    grown = cda_zalloc(offsetof(struct cda_ranges, r[nr + 1]));
    if ( !r || !grown )
    {
        if ( r )
            cda_free_some(r, ~0u);
        xfree(grown);
        atomic_sub(kib, &s->cda->kib);
        uncharge(s, reg.pages, words);
        return -ENOMEM;
    }

    abandon_all(s);
    s->paid = max(s->paid, now) + kib * NS_PER_KIB;
    s->next_id++;
    insert_range(s, r, grown);

    return r->id;
}

/* Takes back what @r was granted and forgets it.  Preemptible. */
static long drop_range(struct cda_session *s, struct domain *d,
                       struct cda_range *r)
{
    struct cda_domain *cda = s->cda;
    struct cda_ranges *tab = s->ranges, *shrunk = NULL;
    unsigned int i, j;

    if ( r->cont != CDA_OP_unregister )
    {
        r->cont = CDA_OP_unregister;
        r->cursor = 0;
    }

    for ( i = r->cursor; i < r->nr_chunks; ++i )
    {
        /* Should nobody come back for the rest, all of it is dirty. */
        track_take_back(d, r, i, NULL);
        if ( hypercall_preempt_check() )
        {
            r->cursor = i + 1;
            cda_flush(s, d);
            return -ERESTART;
        }
    }

    /* Nothing is left to grant: s->lock keeps new authority from appearing. */
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
    track_forget(cda, r);
    uncharge(s, r->pages, !!r->words);

    call_rcu(&tab->rcu, free_ranges_rcu);
    free_range_later(r);

    return 0;
}

/* All of them at once, without needing memory for it. */
static long drop_all(struct cda_session *s, struct domain *d)
{
    struct cda_domain *cda = s->cda;
    struct cda_ranges *tab = s->ranges;
    unsigned int i;

    if ( !tab )
        return 0;
    if ( !take_back(s, d, NULL) )
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
        track_forget(cda, tab->r[i]);

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
