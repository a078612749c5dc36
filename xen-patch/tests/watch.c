/* SPDX-License-Identifier: GPL-2.0-only */
/* Pages that stay writable and are watched through D: Scanxen, Autoxen. */
#include "world.h"
#include "hw.h"
#include "build/cda.h"

/* The page all this is about, in chunk 0. */
#define PAGE 1u
#define AT va_of(0, PAGE)

static unsigned long entry(struct mm *mm, unsigned int slot)
{
    return *walk_l1e(mm->l4, va_of(0, slot));
}

static bool watched(struct mm *mm)
{
    return entry(mm, PAGE) & CDA_L1E_WATCH;
}

/* Commits @n times, each of which must report @dirty pages. */
static void commits(struct mm *mm, unsigned int n, long dirty)
{
    unsigned int i;

    for ( i = 0; i < n; ++i )
    {
        if ( dirty )
            hw_store(AT, next_stamp());
        CHECK(proc_cycle(mm, CDA_OP_commit, 0) == dirty, "commit %u of %u", i,
              n);
    }
}

static struct mm *hot(void)
{
    struct mm *mm = world_range(CDA_MODE_AUTOXEN, 0, 4);

    proc_cycle(mm, CDA_OP_begin, 0);
    CHECK(!watched(mm), "watched from the start");
    commits(mm, 1, 1);
    CHECK(!watched(mm), "watched after one cycle");
    commits(mm, 1, 1);
    CHECK(watched(mm), "not watched after two");
    return mm;
}

/* Clean cycles until @mm's page is protected again. */
static unsigned int cool_down(struct mm *mm)
{
    unsigned int n;

    for ( n = 0; watched(mm); ++n )
        CHECK(n < 200 && !proc_cycle(mm, CDA_OP_commit, 0), "cools");
    return n;
}

/*
 * About to cool, it becomes a swap entry that looks watched.  Nothing may be
 * put for a frame which such an entry only seems to name.
 */
static void swapped_out(void)
{
    static const unsigned long looks[] = { 0, _PAGE_RW, _PAGE_RW | _PAGE_USER };
    unsigned int i;

    for ( i = 0; i < ARRAY_SIZE(looks); ++i )
    {
        struct mm *mm = hot();
        unsigned long swap = (entry(mm, PAGE) & PADDR_MASK & PAGE_MASK) |
                             CDA_L1E_WATCH | looks[i];

        commits(mm, 47, 0);
        CHECK(watched(mm), "about to cool");
        kern_unmap(mm, 0, PAGE);
        set_pte(mm, 0, PAGE, swap, false);
        proc_cycle(mm, CDA_OP_commit, 0);
        proc_cycle(mm, CDA_OP_commit, 0);
        CHECK(entry(mm, PAGE) == swap, "%#lx became %#lx", swap,
              entry(mm, PAGE));
        set_pte(mm, 0, PAGE, 0, false);
        world_end();
    }
}

/* How long a page stays watched: COLD_AFTER clean cycles, in a row. */
static void how_long(void)
{
    struct mm *mm = hot();
    unsigned int i, n = cool_down(mm);
    unsigned long e = entry(mm, PAGE);

    CHECK((e & (CDA_L1E_RO | _PAGE_DIRTY | _PAGE_RW)) ==
          (CDA_L1E_RO | _PAGE_DIRTY), "cooled to %#lx", e);
    CHECK(n == 48, "%u cycles", n);
    truth_check();
    commits(mm, 1, 1);
    CHECK(!watched(mm), "cold is cold");
    commits(mm, 1, 1);
    CHECK(watched(mm), "and hot again");
    for ( i = 0; i < 5; ++i )
    {
        commits(mm, 30, 0);
        commits(mm, 1, 1);
        CHECK(watched(mm), "written after 30 cycles: stays");
    }
    world_end();
}

static void not_in_a_row(void)
{
    struct mm *mm = world_range(CDA_MODE_AUTOXEN, 0, 4);
    unsigned int i;

    proc_cycle(mm, CDA_OP_begin, 0);
    for ( i = 0; i < 6; ++i )
    {
        commits(mm, 1, 1);
        commits(mm, 1, 0);
        CHECK(!watched(mm), "every other cycle is not hot");
    }
    world_end();
}

static void peek_only_looks(void)
{
    struct mm *mm = hot();
    unsigned int i;

    for ( i = 0; i < 100; ++i )
        CHECK(!proc_cycle(mm, CDA_OP_peek, 0), "nothing");
    CHECK(watched(mm), "peek cools");
    hw_store(AT, next_stamp());
    CHECK(proc_cycle(mm, CDA_OP_peek, 0) == 1, "peek");
    commits(mm, 1, 1);
    world_end();
}

static void scan_stays(void)
{
    struct mm *mm = world_range(CDA_MODE_SCANXEN, 0, 4);

    kern_protect(mm, 0, 2, false);
    proc_cycle(mm, CDA_OP_begin, 0);
    CHECK((entry(mm, 2) & (_PAGE_RW | CDA_L1E_TRACKED)) == CDA_L1E_SEEN,
          "a read-only page is watched");
    commits(mm, 100, 0);
    CHECK(watched(mm), "Scanxen cools");
    commits(mm, 3, 1);
    kern_age(mm, 0, PAGE);
    CHECK(!watched(mm) && proc_cycle(mm, CDA_OP_commit, 0) == 1 &&
          watched(mm), "rewritten: watched again at once");
    world_end();
}

/* The kernel makes a watched page read-only: not ours to watch any more. */
static void made_read_only(void)
{
    struct mm *mm = hot();

    kern_protect(mm, 0, PAGE, false);
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 1, "rewritten");
    commits(mm, 100, 0);
    CHECK(!(entry(mm, PAGE) & (_PAGE_RW | CDA_L1E_WATCH)), "read-only");
    truth_check();
    world_end();
}

/*
 * Another address space is built in the process's context, with something at
 * these addresses: what only D knew must not be forgotten.
 */
static void map_something(struct mm *mm)
{
    frame_get(zero_frame);
    table(mm->l1[0])[0] = mkpte(zero_frame, _PAGE_PRESENT | _PAGE_USER);
}

static void taken_back(void)
{
    struct mm *mm = world_range(CDA_MODE_SCANXEN, 0, 4);
    unsigned int i;

    proc_cycle(mm, CDA_OP_begin, 0);
    hw_store(AT, next_stamp());
    mm_before_pin = map_something;
    world_process();
    for ( i = 0; i < 4; ++i )
        CHECK((entry(mm, i) & (_PAGE_PRESENT | _PAGE_RW | CDA_L1E_TRACKED)) ==
              (_PAGE_PRESENT | CDA_L1E_SEEN), "page %u: %#lx", i, entry(mm, i));
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 1, "what was written");
    commits(mm, 1, 0);
    world_end();
}

/* A write while the page is being protected again is found next time. */
static void commit_it(void *mm)
{
    proc_cycle(mm, CDA_OP_commit, 0);
}

static void store_it(void *mm)
{
    hw_store(AT, next_stamp());
}

static void late_write(void)
{
    static const char *const at[] = { "cmpxchg", "cool" };
    task_fn *fn[2] = { commit_it, store_it };
    unsigned int i;

    for ( i = 0; i < ARRAY_SIZE(at); ++i )
    {
        struct mm *mm = hot();
        void *arg[2] = { mm, mm };

        commits(mm, 47, 0);
        CHECK(watched(mm), "the next commit cools it");
        mm_load(&vcpus[1], mm);
        world_be(0);
        sched_pause_at(0, at[i], 1);
        sched_run(2, fn, arg);
        world_be(0);
        CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 1, "%s: missed", at[i]);
        truth_check();
        world_end();
    }
}

const struct test_case watch_cases[] = {
    { "how long a page is watched", how_long },
    { "not in a row", not_in_a_row },
    { "peek only looks", peek_only_looks },
    { "Scanxen cools nothing", scan_stays },
    { "watched page made read-only", made_read_only },
    { "watched page taken back", taken_back },
    { "write while a page cools", late_write },
    { "a swap entry that looks watched", swapped_out },
    { NULL, NULL },
};
