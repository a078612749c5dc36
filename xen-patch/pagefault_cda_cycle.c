/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * arch/x86/pv/pagefault_cda_cycle.c (included by pagefault_cda.c)
 *
 * Chunks of a range, and what a cycle does with them: which were written, by
 * comparing the L2 entry that leads to a chunk's table with the one expected
 * there; which pages of it; and how they are protected again.
 *
 * Locks: page_lock() of one L1 table, within it hash_lock.
 */

/*
 * Chunks of a range: memory for them, and what they begin with.
 */

static unsigned long track_bytes(unsigned int nr_chunks, unsigned int mode)
{
    return nr_chunks * (sizeof(unsigned long) + sizeof(struct cda_chunk) +
                        (mode_heats(mode) ? sizeof(struct cda_heat) : 0UL));
}

static bool track_alloc(struct cda_range *r)
{
    struct track_range *t = &r->track;
    unsigned int i;

    t->want = alloc_pieces(r->nr_chunks, WANTS_SHIFT, sizeof(**t->want));
    t->chunk = alloc_pieces(r->nr_chunks, CHUNKS_SHIFT, sizeof(**t->chunk));
    if ( !t->want || !t->chunk )
        return false;

    for ( i = 0; i < r->nr_chunks; ++i )
    {
        struct cda_chunk *c = chunk_at(r, i);

        c->want = want_at(r, i);
        *c->want = WANT_TOUCHED;
        c->l1 = INVALID_MFN;
        c->va = r->base + i * CHUNK_SIZE;
        c->range = r;
        c->lo = i ? 0 : l1_table_offset(r->start);
        c->hi = i + 1 < r->nr_chunks ? CHUNK_PAGES
                                     : l1_table_offset(r->end - 1) + 1;
        if ( mode_heats(r->mode) &&
             (c->heat = cda_zalloc(sizeof(*c->heat))) == NULL )
            return false;
    }

    return true;
}

static bool track_free(struct cda_range *r, unsigned int most)
{
    struct track_range *t = &r->track;

    for ( ; t->chunk && r->cursor < r->nr_chunks; --most )
    {
        unsigned int i = r->cursor >> CHUNKS_SHIFT;

        if ( !most )
            return false;
        do {
            xfree(chunk_at(r, r->cursor)->heat);
        } while ( ++r->cursor < r->nr_chunks &&
                  r->cursor >> CHUNKS_SHIFT == i );
        xfree(t->chunk[i]);
    }
    free_pieces(t->want, r->nr_chunks, WANTS_SHIFT);
    xfree(t->chunk);

    return true;
}

static void track_forget(struct cda_domain *cda, struct cda_range *r)
{
    unsigned int i;

    for ( i = 0; i < r->nr_chunks; ++i )
        cda_unbind(cda, chunk_at(r, i));
}

static void track_touch(struct cda_range *r, unsigned int n)
{
    ACCESS_ONCE(*want_at(r, n)) = WANT_TOUCHED;
}

static bool track_take_back(struct domain *d, struct cda_range *r,
                            unsigned int n, const void *heir)
{
    struct cda_chunk *c = chunk_at(r, n);

    if ( heir && !may_share(d, heir, c) )
        return false;

    take_back_chunk(d, c, heir ? CDA_L1E_SEEN : 0);
    if ( !heir )
        ACCESS_ONCE(*c->want) = WANT_TOUCHED;

    return true;
}

/*
 * What was dirtied in a chunk.
 */

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
static noinline bool sync_replaced(struct domain *d, const struct cda_range *r,
                                   struct cda_chunk *c, unsigned long l2e,
                                   unsigned int what, unsigned long *map,
                                   bool *refused)
{
    struct cda_session *s = r->session;
    struct cda_domain *cda = s->cda;
    bool unknown = false, watched = false;
    bool flushed = !mfn_eq(c->l1, INVALID_MFN);
    l1_pgentry_t *pl1e;
    unsigned int i;

    fill_slots(map, c->lo, c->hi);
    if ( !(what & DO_PROTECT) )
        return false;

    /* Grants of ours in the old table must not outlive our memory of them. */
    take_back_chunk(d, c, 0);
    cda_unbind(cda, c);

    if ( !l2e_leads(l2e) || !mfn_valid(l2e_mfn(l2e)) ||
         (pl1e = lock_l1(d, l2e_mfn(l2e))) == NULL )
    {
        *c->want = WANT_TOUCHED;
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
    cda_bind(cda, c, l2e_mfn(l2e));
    cda_evict(cda, d, c, pl1e, l2e_mfn(l2e));
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
    *c->want = l2e | (unknown || watched ? WANT_TOUCHED : 0);
    unlock_l1(pl1e, l2e_mfn(l2e));

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
                  ++*streak >= COLD_AFTER && cda_cool(&pl1e[b], l1e) )
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
static bool sync_touched(struct domain *d, const struct cda_range *r,
                         struct cda_chunk *c, unsigned long l2e,
                         unsigned int what, unsigned long *map)
{
    struct cda_session *s = r->session;
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
        *c->want = l2e | (look_again ? WANT_TOUCHED : 0);
    unlock_l1(pl1e, l2e_mfn(l2e));
    if ( protected )
        COUNT_N(s, write_protected, protected);
    if ( watched )
        COUNT_N(s, watched, watched);

    return protected || watched || changed;
}

/*
 * On its way through a range.
 */

static always_inline void walk_leave(struct cda_walk *w)
{
    if ( !w->l2pg )
        return;
    unmap_table(w->l2t);
    unref_frame(w->l2pg);
}

static always_inline void walk_begin(struct cda_walk *w, struct domain *d,
                                     const struct cda_range *r, unsigned int n)
{
    w->d = d;
    w->first = n;
    w->changed = w->refused = false;
    w->l2pg = NULL;
    w->l2t = NULL;
}

static always_inline bool walk_next(struct cda_walk *w,
                                    const struct cda_range *r, unsigned int *n)
{
    unsigned long va = r->base + ((unsigned long)*n << CHUNK_SHIFT);
    const unsigned long *want = want_at(r, *n), *stop, *p;
    unsigned int slot = l2_table_offset(va), left;

    if ( *n == w->first || !slot )
    {
        walk_leave(w);
        w->l2pg = get_l2(w->d, va);
        w->l2t = w->l2pg ? map_table(page_to_mfn(w->l2pg)) : NULL;
    }

    if ( unlikely(!w->l2t) )
    {
        w->l2e = 0;
        return ACCESS_ONCE(*want);
    }

    left = min(min(L2_PAGETABLE_ENTRIES - slot, r->nr_chunks - *n),
               CHUNKS_PER_CHECK);
    left = min(left, (1u << WANTS_SHIFT) - (*n & ((1u << WANTS_SHIFT) - 1)));
    stop = want + left - 1;

    /* Most chunks are clean: one read and one comparison each. */
    for ( p = &l2e_get_intpte(w->l2t[slot]); want < stop; ++want, ++p )
        if ( (ACCESS_ONCE(*p) & L2E_MASK) != ACCESS_ONCE(*want) )
            break;
    *n += left - 1 - (stop - want);
    w->l2e = ACCESS_ONCE(*p) & L2E_MASK;

    return w->l2e != ACCESS_ONCE(*want);
}

static always_inline void walk_sync(struct cda_walk *w, struct cda_range *r,
                                    unsigned int n, unsigned int what,
                                    unsigned long *map)
{
    struct cda_chunk *c = chunk_at(r, n);
    bool in_place = l2e_leads(w->l2e) &&
                    w->l2e == (ACCESS_ONCE(*c->want) & ~WANT_TOUCHED);

    w->changed |= in_place
                  ? sync_touched(w->d, r, c, w->l2e, what, map)
                  : sync_replaced(w->d, r, c, w->l2e, what, map, &w->refused);
}

static always_inline void walk_end(struct cda_walk *w)
{
    walk_leave(w);
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
