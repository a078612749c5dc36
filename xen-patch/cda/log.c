/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * arch/x86/cda/log.c (included by the backend, see private.h)
 *
 * The log of a range, in the process's own memory: what is appended to it in a
 * cycle.  The process may change or unmap that memory at any time, so nothing
 * is read back, and what cannot be written only makes the log lost.
 *
 * Locks: session->lock, and words->lock while buffers change hands.  Never
 * under a lock of the backend's, as a copy may fault.
 */

#define EMIT_BATCH        128

static unsigned long log_at(const struct cda_range *r, uint64_t entry)
{
    return r->log + sizeof(struct cda_log) + entry * sizeof(uint64_t);
}

static void flush_entries(struct cda_range *r, const uint64_t *buf,
                          unsigned int n)
{
    if ( n && copy_out(log_at(r, r->count), buf, n * sizeof(*buf)) )
        r->lost = true;
    r->count += n;
}

/*
 * Appends the stores which Xen performed.  With @keep they stay: entries do
 * not change once they are there, so the copy needs no lock.
 */
static void emit_words(struct cda_range *r, bool keep)
{
    struct cda_words *words = r->words;
    uint64_t room = (r->log_entries - r->count) / 2;
    struct cda_word *const *from;
    unsigned int nr, part, i;

    spin_lock(&words->lock);
    from = words->at[words->which];
    nr = words->nr;
    if ( !keep )
    {
        words->which ^= 1;
        words->nr = 0;
    }
    spin_unlock(&words->lock);

    r->found += nr;
    if ( nr > room )
    {
        r->full = true;
        nr = room;
    }
    for ( i = 0; nr; nr -= part, r->count += 2 * part )
    {
        part = min(nr, 1u << WORDS_SHIFT);
        if ( copy_out(log_at(r, r->count), from[i++],
                      part * sizeof(**from)) )
            r->lost = true;
    }
}

/* Appends the pages in @map to the log of @r, without any lock but s->lock. */
static void cda_emit(struct cda_range *r, unsigned int chunk,
                     const unsigned long *map)
{
    uint64_t buf[EMIT_BATCH], room = r->log_entries - r->count;
    unsigned long page = ((unsigned long)chunk << CHUNK_SHIFT >> PAGE_SHIFT) -
                         ((r->start - r->base) >> PAGE_SHIFT);
    unsigned int w, n = 0;

    for ( w = 0; w < BITS_TO_LONGS(CHUNK_PAGES); ++w, page += BITS_PER_LONG )
    {
        unsigned long bits = map[w];
        unsigned int first = n, found;

        if ( !bits )
            continue;

        for ( ; bits; bits &= bits - 1 )
            buf[n++] = page + __builtin_ctzl(bits);

        /* What does not fit is counted all the same. */
        found = n - first;
        r->found += found;
        if ( unlikely(found > room) )
        {
            r->full = true;
            n = first + room;
        }
        room -= n - first;

        if ( n > EMIT_BATCH - BITS_PER_LONG )
        {
            flush_entries(r, buf, n);
            n = 0;
        }
    }

    flush_entries(r, buf, n);
}

/*
 * The head of a log that is complete.  What was lost is told with it; with
 * @keep the next one tells it as well.
 */
static int emit_header(struct cda_range *r, bool keep)
{
    struct cda_log h = {
        .epoch = r->epoch,
        .count = r->count,
        .dirty = r->found,
        .flags = r->lost || r->full ? CDA_LOG_LOST : 0,
        .entry_bytes = sizeof(uint64_t),
    };

    /* The epoch last: who reads the new one there reads all of it. */
    if ( copy_out(r->log + sizeof(h.epoch), &h.count,
                  sizeof(h) - sizeof(h.epoch)) ||
         put_word(r->log, h.epoch) )
    {
        r->lost = true;
        return -EFAULT;
    }
    if ( r->lost )
    {
        r->found |= CDA_RESULT_LOST;
        r->lost = keep;
    }
    else if ( h.flags )
        r->found |= CDA_RESULT_LOST;

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
