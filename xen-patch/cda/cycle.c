/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * arch/x86/cda/cycle.c (included by the backend, see private.h)
 *
 * Cycles of a range: begin, end, commit and peek, of one range or of all, and
 * how they go on after they were interrupted.
 *
 * Locks: under session->lock, which keeps ranges and their cursors; the backend
 * takes its own for each chunk.
 */

#define CHUNKS_PER_CHECK  64u

static const uint8_t op_does[] = {
    [CDA_OP_begin]  = DO_PROTECT,
    [CDA_OP_end]    = DO_REPORT,
    [CDA_OP_commit] = DO_REPORT | DO_PROTECT,
    [CDA_OP_peek]   = DO_REPORT,
};

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
                cda_emit(r, n, map);

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
        cda_flush(s, d);

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
 * Local variables:
 * mode: C
 * c-file-style: "BSD"
 * c-basic-offset: 4
 * tab-width: 4
 * indent-tabs-mode: nil
 * End:
 */
