/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * New address spaces which are made in a process's context: what a fork may
 * have shared is taken back, once, and nothing else is.
 */
#include "world.h"
#include "hw.h"
#include "build/cda.h"

static unsigned long entry(struct mm *mm, unsigned int c, unsigned int a)
{
    return *walk_l1e(mm->l4, va_of(c, active_slot[a]));
}

static struct cda_counters counters(struct mm *mm)
{
    struct cda_query q;

    CHECK(!proc_query(mm, &q), "query");
    return q.counters;
}

/* The end of chunk 0 and the beginning of chunk 1: some written, some not. */
static struct mm *tracked(unsigned int mode)
{
    struct mm *mm;

    world_start();
    mm = world_session(0);
    proc_mode = mode;
    CHECK(!proc_register(mm, 0, va_of(0, 509), 7, io_va(2), 4096), "id");
    proc_mode = CDA_MODE_PTXEN;
    CHECK(!proc_cycle(mm, CDA_OP_begin, 0), "begin");
    hw_store(va_of(0, 510), next_stamp());
    hw_store(va_of(1, 1), next_stamp());
    return mm;
}

static const uint8_t modes[] = { CDA_MODE_PTXEN, CDA_MODE_SCANXEN,
                                 CDA_MODE_AUTOXEN, CDA_MODE_EMULXEN };

/* In the same table as the range, and beside it. */
static void map_beside(struct mm *mm)
{
    frame_get(zero_frame);
    table(mm->l1[0])[3] = mkpte(zero_frame, _PAGE_PRESENT | _PAGE_USER);
}

/* vfork() or posix_spawn(), and exec: nothing of the parent's is in there. */
static void exec_takes_nothing(void)
{
    unsigned int i, a;

    for ( i = 0; i < 2 * ARRAY_SIZE(modes); ++i )
    {
        struct mm *mm = tracked(modes[i / 2]), *other;
        struct cda_counters before = counters(mm), after;
        unsigned long was[2][NR_ACTIVE];

        for ( a = 0; a < NR_ACTIVE; ++a )
        {
            was[0][a] = entry(mm, 0, a);
            was[1][a] = entry(mm, 1, a);
        }
        preempt_rate = i & 1;
        mm_before_pin = map_beside;
        other = mm_new();
        preempt_rate = 0;
        for ( a = 0; a < NR_ACTIVE; ++a )
            CHECK(entry(mm, 0, a) == was[0][a] && entry(mm, 1, a) == was[1][a],
                  "taken back, in slot %u", active_slot[a]);
        mm_exit(other);
        hw_store(va_of(0, 511), next_stamp());
        hw_store(va_of(1, 0), next_stamp());
        after = counters(mm);
        CHECK(after.forks == before.forks && after.flushes == before.flushes &&
              after.faults_forwarded == before.faults_forwarded,
              "%lu take-backs, %lu faults left to the kernel",
              (unsigned long)(after.forks - before.forks),
              (unsigned long)(after.faults_forwarded -
                              before.faults_forwarded));
        CHECK(proc_cycle(mm, CDA_OP_commit, 0) >= 4, "reported");
        truth_check();
        world_end();
    }
}

/* Two roots and as many interruptions as there may be: one fork. */
static void fork_takes_once(void)
{
    unsigned int i, c, a;

    for ( i = 0; i < 2 * ARRAY_SIZE(modes); ++i )
    {
        struct mm *mm = tracked(modes[i / 2]), *child;

        preempt_rate = i & 1;
        child = mm_fork(mm);
        preempt_rate = 0;
        CHECK(child, "no child");
        for ( c = 0; c < 2; ++c )
            for ( a = c ? 0 : 4; a < (c ? 4 : 7); ++a )
                CHECK(!(entry(mm, c, a) & (_PAGE_RW | CDA_L1E_RO |
                                           CDA_L1E_WATCH)),
                      "chunk %u slot %u: %#lx", c, active_slot[a],
                      entry(mm, c, a));
        hw_store(va_of(0, 511), 666);
        hw_store(va_of(1, 0), 666);
        CHECK(content(child, va_of(0, 511)) != 666 &&
              content(child, va_of(1, 0)) != 666, "the child's page changed");
        CHECK(counters(mm).forks == 1, "%lu forks",
              (unsigned long)counters(mm).forks);
        truth_check();
        mm_fork(mm);
        CHECK(counters(mm).forks == 2, "a second one");
        world_end();
    }
}

/* MADV_DONTFORK for one chunk: that one is the parent's alone. */
static void fork_leaves_out(void)
{
    unsigned int both;

    for ( both = 0; both < 2; ++both )
    {
        struct mm *mm = tracked(CDA_MODE_PTXEN);
        unsigned long was = entry(mm, 0, 6), written = entry(mm, 0, 5);

        mm->dontfork[0] = true;
        mm->dontfork[1] = both;
        CHECK(mm_fork(mm), "no child");
        CHECK((was & CDA_L1E_RO) && entry(mm, 0, 6) == was &&
              entry(mm, 0, 5) == written, "taken back, and not shared");
        CHECK(!(entry(mm, 1, 0) & CDA_L1E_RO) == !both, "shared");
        CHECK(counters(mm).forks == !both, "counted");
        truth_check();
        world_end();
    }
}

/*
 * Threads make address spaces in turn, and every call is interrupted as soon as
 * it may be: none makes another begin again.
 */
#define FORKS 4u                  /* FORKS_AT_ONCE of the code under test */

static void forks_at_once(void)
{
    unsigned long root[FORKS];
    bool done[FORKS] = { };
    struct mm *mm = tracked(CDA_MODE_PTXEN);
    unsigned int i, call, left = FORKS;

    for ( i = 0; i < FORKS; ++i )
        root[i] = frame_alloc();
    preempt_rate = 1;
    for ( call = 0; left && call < 10; ++call )
        for ( i = 0; i < FORKS; ++i )
            if ( !done[i] && !cda_table_new(&domu, &frame_table[root[i]]) )
            {
                done[i] = true;
                left--;
            }
    preempt_rate = 0;
    CHECK(!left, "%u of %u never end", left, FORKS);
    CHECK(call > 1, "no call was interrupted");
    CHECK(counters(mm).forks == 0, "nothing was shared");
    for ( i = 0; i < FORKS; ++i )
        frame_drop(root[i]);
    world_end();
}

/* What was taken back before an interruption is flushed, whatever comes. */
static void fork_interrupted(void)
{
    struct mm *mm = tracked(CDA_MODE_PTXEN);
    uint64_t before = counters(mm).flushes;

    mm->dontfork[1] = true;
    preempt_rate = 1;
    CHECK(mm_fork(mm), "no child");
    preempt_rate = 0;
    CHECK(counters(mm).flushes == before + 1, "%lu flushes",
          (unsigned long)(counters(mm).flushes - before));
    world_end();
}

/*
 * The kernel swaps the page out of the child first.  Should it come back, it is
 * the page which the parent has, too.
 */
static void swap_out(struct mm *child)
{
    unsigned long *p = &table(child->l1[1])[0];

    frame_drop(frame_of(*p));
    *p = 0x1000;                  /* offset 1, not present */
}

static void fork_swapped(void)
{
    struct mm *mm = tracked(CDA_MODE_PTXEN);
    unsigned int a;

    /* Of chunk 1 nothing else is in the child. */
    for ( a = 1; a < NR_ACTIVE; ++a )
        kern_unmap(mm, 1, a);
    mm_before_pin = swap_out;
    CHECK(mm_fork(mm), "no child");
    CHECK(!(entry(mm, 1, 0) & (CDA_L1E_RO | _PAGE_RW)),
          "%#lx may be granted", entry(mm, 1, 0));
    world_end();
}

/* The table which the chunk knows is elsewhere, and was copied from there. */
static void fork_moved(void)
{
    struct mm *mm, *child;

    world_start();
    mm = world_session(0);
    CHECK(!proc_register(mm, 0, va_of(0, 0), 4, io_va(2), 4096), "id");
    proc_cycle(mm, CDA_OP_begin, 0);
    kern_move_table(mm, 0, 2);
    child = mm_fork(mm);
    CHECK(!(entry(mm, 2, 0) & (CDA_L1E_RO | _PAGE_RW)), "%#lx",
          entry(mm, 2, 0));
    hw_store(va_of(2, 0), 666);
    CHECK(content(child, va_of(2, 0)) != 666, "the child's page changed");
    truth_check();
    world_end();
}

/* Tables of the new root which are none, or not the domain's. */
static unsigned long *odd_entry, odd_value;
static void make_odd(struct mm *mm)
{
    odd_entry = &table(mm->l3)[0];
    odd_value = *odd_entry;
    *odd_entry = mkpte(NR_FRAMES + 5, _PAGE_PRESENT | _PAGE_USER);
}

static void fork_odd(void)
{
    struct cda_counters c;
    struct mm *mm;

    world_start();
    mm = world_session(0);
    CHECK(!proc_register(mm, 0, va_of(0, 0), 4, io_va(2), 4096), "id");
    proc_cycle(mm, CDA_OP_begin, 0);
    mm_before_pin = make_odd;
    /* Xen's own validation comes next, and refuses such a table. */
    {
        struct page_info *pg;
        struct mm child = *mm;

        child.l4 = frame_alloc();
        child.l3 = frame_alloc();
        table(child.l4)[0] = mkpte(child.l3, _PAGE_PRESENT | _PAGE_USER);
        mm_before_pin(&child);
        mm_before_pin = NULL;
        pg = &frame_table[child.l4];
        CHECK(!cda_table_new(&domu, pg), "the hook");
        c = counters(mm);
        CHECK(c.forks == 1, "when in doubt, taken back");
        table(child.l4)[0] = 0;
        *odd_entry = odd_value;
        frame_drop(child.l3);
        frame_drop(child.l4);
    }
    world_end();
}

/* Rewritten by the guest: counted, once each. */
static void guest_updates(void)
{
    struct mm *mm = tracked(CDA_MODE_PTXEN);
    uint64_t before = counters(mm).guest_updates;
    unsigned long e;

    kern_age(mm, 1, 0);
    CHECK(counters(mm).guest_updates == before + 1, "a tracked entry");
    kern_age(mm, 1, 5);
    CHECK(counters(mm).guest_updates == before + 1, "one which is not");
    e = take_pte(mm, 1, 1);       /* granted: taken back before it is read */
    set_pte(mm, 1, 1, e, false);
    CHECK(counters(mm).guest_updates == before + 2, "taken away");
    world_end();
}

const struct test_case fork_cases[] = {
    { "exec takes nothing back", exec_takes_nothing },
    { "a fork takes back once", fork_takes_once },
    { "a fork that leaves out", fork_leaves_out },
    { "a fork, interrupted", fork_interrupted },
    { "forks at once", forks_at_once },
    { "a fork and a swapped page", fork_swapped },
    { "a fork and a moved table", fork_moved },
    { "a fork and odd tables", fork_odd },
    { "guest updates", guest_updates },
    { NULL, NULL },
};
