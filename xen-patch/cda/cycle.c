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

static const uint8_t op_does[] = {
    [CDA_OP_begin]  = DO_PROTECT,
    [CDA_OP_end]    = DO_REPORT,
    [CDA_OP_commit] = DO_REPORT | DO_PROTECT,
    [CDA_OP_peek]   = DO_REPORT,
};

/* Makes @op the one that is on its way in @r, or says why it cannot be. */
static int cycle_enter(struct cda_range *r, unsigned int op)
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
    if ( op_does[op] & DO_PROTECT )
        r->pass++;

    return 0;
}

/* Pages of @r from its cursor on.  0, -ERESTART or an error. */
static always_inline int cycle_pages(struct cda_session *s, struct domain *d,
                                     struct cda_range *r, unsigned int op)
{
    const unsigned int what = op_does[op];
    unsigned int n = r->cursor;
    struct cda_walk w;
    int rc = 0;

    for ( walk_begin(&w, d, r, n); n < r->nr_chunks; ++n )
    {
        if ( walk_next(&w, r, &n) )
        {
            unsigned long map[BITS_TO_LONGS(CHUNK_PAGES)];

            walk_sync(&w, r, n, what, map);
            if ( what & DO_REPORT )
                cda_emit(r, n, map);

            /* Later they only count as dirty each time. */
            if ( w.refused && op == CDA_OP_begin )
            {
                /* The next begin looks again. */
                track_touch(r, n);
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
    walk_end(&w);

    /*
     * Also when interrupted: what is protected must fault from now on, since
     * a caller which does not come back would otherwise never flush.
     */
    if ( w.changed )
        cda_flush(s, d);

    return rc;
}

/* The list is complete, or this was a begin. */
static int cycle_leave(struct cda_session *s, struct cda_range *r,
                       unsigned int op)
{
    if ( !(op_does[op] & DO_REPORT) )
    {
        /* Stores before the cycle began. */
        if ( unlikely(r->words) )
        {
            spin_lock(&r->words->lock);
            r->words->nr = 0;
            spin_unlock(&r->words->lock);
        }
        r->active = true;
        return 0;
    }

    if ( unlikely(r->words) )
        emit_words(r, op == CDA_OP_peek);
    if ( op != CDA_OP_peek )
    {
        r->epoch++;
        COUNT(s, cycles);
    }
    r->active = op != CDA_OP_end;

    return emit_header(r, op == CDA_OP_peek);
}

/*
 * Does @op on @r, with @resume from where it was interrupted.  Returns 0,
 * -ERESTART, or an error after which the operation is over.
 */
static int do_cycle(struct cda_session *s, struct domain *d,
                    struct cda_range *r, unsigned int op, bool resume)
{
    int rc = 0;

    /* What is protected now was not there when the session began to end. */
    s->drop.for_what = NULL;

    if ( !resume || r->cont != op )
        rc = cycle_enter(r, op);
    if ( rc )
        return rc;

    rc = cycle_pages(s, d, r, op);
    if ( rc == -ERESTART )
        return rc;

    r->cont = 0;

    return rc ?: cycle_leave(s, r, op);
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

    rc = track_refused(d);
    if ( unlikely(rc) )
        return rc;
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
