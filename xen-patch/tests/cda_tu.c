/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The code under test, unmodified but for its includes, and checks that look
 * at its private state.
 */
#include "guest.h"
#include "hw.h"
#include "build/public.h"
#include "build/cda.h"

long do_cda_op(unsigned int cmd, struct handle_void uarg);
void do_entry_int84(struct cpu_user_regs *regs);

#include CDA_SOURCE

static unsigned long live_entry(const struct mm *mm, unsigned long va)
{
    unsigned long tab = mm->l4, e = 0;
    unsigned int level;

    for ( level = 4; level >= 2; --level, tab = frame_of(e) )
    {
        e = table(tab)[va >> (3 + 9 * level) & 511];
        if ( !(e & _PAGE_PRESENT) )
            return 0;
    }
    return e & L2E_MASK;
}

static const struct mm *mm_of(unsigned long root)
{
    unsigned int i;

    for ( i = 0; i < NR_MMS; ++i )
        if ( mms[i].live && mms[i].l4 == root )
            return &mms[i];
    return NULL;
}

/* What a chunk believes against its table: see the top of the file. */
static void check_chunk(const struct mm *mm, const struct cda_range *r,
                        unsigned int n)
{
    const struct cda_chunk *c = chunk_at(r, n);
    unsigned long va = r->base + ((unsigned long)n << CHUNK_SHIFT), e;
    unsigned int i;
    bool any = false;

    /* Another table, or the way there changed: to be walked anew. */
    if ( !frame_of(*want_at(r, n)) ||
         live_entry(mm, va) != (*want_at(r, n) & ~WANT_TOUCHED) )
        return;
    CHECK(mfn_x(c->l1) == frame_of(*want_at(r, n)),
          "chunk %u is bound to %#lx, but led to %#lx", n, mfn_x(c->l1),
          frame_of(*want_at(r, n)));
    for ( i = c->lo; i < c->hi; ++i )
    {
        e = table(mfn_x(c->l1))[i];
        if ( test_bit(i, c->dirty) )
            any = true;
        else if ( e & CDA_L1E_WATCH )
        {
            CHECK((e & (_PAGE_PRESENT | _PAGE_RW)) ==
                  (_PAGE_PRESENT | _PAGE_RW) && c->heat &&
                  test_bit(i, c->heat->hot),
                  "chunk %u slot %u: nobody watches entry %#lx", n, i, e);
            any = true;
        }
        else
            CHECK((e & _PAGE_PRESENT) && !(e & _PAGE_RW) &&
                  (e & (CDA_L1E_RO | CDA_L1E_SEEN)),
                  "chunk %u slot %u: entry %#lx is untracked, believed clean",
                  n, i, e);
    }
    CHECK(!any || (*want_at(r, n) & WANT_TOUCHED),
          "chunk %u has dirty pages, and nobody will look", n);
}

/* All sessions against the tables and the quotas.  Only at rest. */
void cda_check(void)
{
    struct cda_domain *cda = domu.arch.cda;
    unsigned long pages = 0, kib = 0, sum;
    unsigned int i, j, n, sessions = 0, words = 0;
    struct cda_session *s;

    if ( !cda )
        return;
    CHECK(!cda->lock.held && !cda->track.hash_lock.held, "a lock is held at rest");
    for ( i = 0; i < ARRAY_SIZE(cda->session); ++i )
        for ( s = cda->session[i]; s; s = s->hnext, sessions++ )
        {
            const struct mm *mm = mm_of(s->root);

            CHECK(mm, "a session outlives its address space");
            CHECK(!s->lock.held, "a session is locked at rest");
            CHECK(!s->dead, "a dead session can be found");
            for ( sum = j = 0; s->ranges && j < s->ranges->nr; ++j )
            {
                struct cda_range *r = s->ranges->r[j];

                sum += r->pages;
                kib += r->kib;
                words += !!r->words;
                CHECK(!j || s->ranges->r[j - 1]->end <= r->start,
                      "ranges out of order");
                for ( n = 0; n < r->nr_chunks; ++n )
                    check_chunk(mm, r, n);
            }
            CHECK(sum == s->pages, "session quota %lu, in use %lu",
                  (unsigned long)s->pages, sum);
            pages += sum;
            kib += atomic_read(&s->going);
        }
    CHECK(pages == cda->used_pages, "domain quota %lu, in use %lu",
          (unsigned long)cda->used_pages, pages);
    /* Sessions that ended may have ranges which RCU holds. */
    CHECK(kib <= atomic_read(&cda->kib), "%lu KiB in use, %d counted", kib,
          atomic_read(&cda->kib));
    CHECK(words == cda->used_word_logs, "%u logs of stores, %u counted", words,
          cda->used_word_logs);
    CHECK(sessions == cda->used_sessions, "%u sessions, %u counted", sessions,
          cda->used_sessions);
    for ( i = 0; i < ARRAY_SIZE(cda->track.chunk); ++i )
    {
        const struct cda_chunk *c;

        for ( n = 0, c = cda->track.chunk[i]; c; c = c->next )
        {
            CHECK(hash_of_mfn(c->l1) == i && ++n < 10000, "chain of chunks");
            CHECK((frame_table[mfn_x(c->l1)].u.inuse.type_info &
                   PGT_type_mask) == PGT_l1_page_table,
                  "a chunk is bound to %#lx, which is no L1 table",
                  mfn_x(c->l1));
        }
    }
}
