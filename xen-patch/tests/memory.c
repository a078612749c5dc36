/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What processes make Xen allocate and free.  shim_alloc() refuses pieces of
 * more than a page, whose unmapping would be a shootdown on all CPUs.
 */
#include "world.h"
#include "hw.h"
#include "build/cda.h"

#define HUGE_VA (1UL << 40)       /* nothing is mapped there */

static void limits(uint64_t pages, uint32_t ranges, uint32_t sessions)
{
    struct cda_ctl_limits l = { .size = sizeof(l), .domid = 1 };

    CHECK(!ctl(CDA_CTL_get_limits, &l), "limits");
    l.max_pages = pages;
    l.max_ranges = ranges;
    l.max_sessions = sessions;
    CHECK(!ctl(CDA_CTL_set_limits, &l), "limits");
}

static long add_range(struct mm *mm, unsigned int mode, unsigned long start,
                      unsigned long pages)
{
    struct cda_register reg = {
        .size = sizeof(reg), .mode = mode, .start = start, .pages = pages,
        /* Logs are not written here, only compared. */
        .log = start + (pages << PAGE_SHIFT), .log_bytes = 64,
    };

    CHECK(!put_user(io_va(0), &reg, sizeof(reg)), "put");
    return gate(CDA_OP_register, mm->proc.cookie, io_va(0), 0, 0, 0);
}

static long drop_range(struct mm *mm, long id)
{
    return gate(CDA_OP_unregister, mm->proc.cookie, id, 0, 0, 0);
}

static struct mm *big_session(uint64_t pages, uint32_t ranges)
{
    struct mm *mm;

    world_start();
    limits(pages, ranges, 8);
    mm = world_session(0);
    return mm;
}

/* However large a range, its memory comes and goes in small pieces. */
static void small_pieces(void)
{
    unsigned int mode, how;

    for ( mode = CDA_MODE_PTXEN; mode <= CDA_MODE_AUTOXEN; ++mode )
        for ( how = 0; how < 2; ++how )
        {
            struct mm *mm = big_session(1UL << 21, 500);
            unsigned long before = alloc_bytes;
            long id = add_range(mm, mode, HUGE_VA + 0x1ff000, 1UL << 20);

            CHECK(id >= 0, "mode %u: %ld", mode, id);
            CHECK(alloc_bytes - before < 6UL << 20, "%lu bytes for 4 GiB",
                  alloc_bytes - before);
            rcu_drain();
            rcu_most_freed = 0;
            if ( !how )
            {
                CHECK(!drop_range(mm, id), "unregister");
                rcu_drain();
                CHECK(alloc_bytes <= before, "%lu bytes are left",
                      alloc_bytes - before);
            }
            else
            {
                mm_load(&vcpus[0], NULL);
                mm_exit(mm);
                proc_forget(mm);
                rcu_drain();
            }
            CHECK(rcu_most_freed <= 128, "one RCU callback freed %u pieces",
                  rcu_most_freed);
            world_end();
        }
}

/* As many ranges as there may be: their table is replaced each time. */
static void many_ranges(void)
{
    struct mm *mm = big_session(1UL << 20, 500);
    unsigned int i;

    for ( i = 0; i < 500; ++i )
        CHECK(add_range(mm, CDA_MODE_PTXEN, HUGE_VA + i * 0x10000UL, 1) == i,
              "range %u", i);
    CHECK(add_range(mm, CDA_MODE_PTXEN, HUGE_VA + i * 0x10000UL, 1) == -ENOSPC,
          "one more");
    world_end();
}

/* One page each, and the most memory for it: it is limited, and comes back. */
static void memory_quota(void)
{
    static const uint8_t modes[] = { CDA_MODE_EMULXEN, CDA_MODE_AUTOXEN };
    unsigned long base, most;
    unsigned int i, n, round, s;
    struct mm *mm;

    world_start();
    limits(2048, 500, 8);
    base = alloc_bytes;
    most = (4096UL << 10) + (2048UL << 10) / 16;
    for ( n = s = 0; s < 3; ++s )
    {
        mm = world_session(0);
        for ( i = 0; i < 500; ++i )
        {
            long rc = add_range(mm, modes[i & 1], HUGE_VA + i * 0x400000UL, 2);

            if ( rc == -ENOSPC )
                break;
            /* Another that needs less may still fit. */
            CHECK(rc >= 0, "%ld", rc);
            n++;
        }
        CHECK(alloc_bytes - base <= most + 64 * 1024, "%lu bytes after %u",
              alloc_bytes - base, n);
        if ( i < 500 )
            break;
    }
    CHECK(n >= 64, "%u ranges are few", n);
    CHECK(add_range(mm, CDA_MODE_EMULXEN, HUGE_VA + (1UL << 35), 1) ==
          -ENOSPC, "no room, whatever the pages");
    for ( round = 0; round < 3; ++round )
    {
        CHECK(!drop_range(mm, 0 + 2 * round), "unregister");
        rcu_drain();
        CHECK(add_range(mm, CDA_MODE_EMULXEN,
                        HUGE_VA + (1UL << 35) + round * 0x400000UL, 1) > 0,
              "comes back");
    }
    world_end();
}

/* No memory, no charge: or failing often would use the quota up. */
static void memory_refund(void)
{
    struct mm *mm = big_session(64, 500);
    unsigned int i;

    for ( i = 0; i < 200; ++i )
    {
        alloc_fail_nth = 1 + i % 20;
        CHECK(add_range(mm, CDA_MODE_EMULXEN, HUGE_VA, 1) == -ENOMEM,
              "attempt %u", i);
        alloc_fail_nth = 0;
    }
    CHECK(add_range(mm, CDA_MODE_EMULXEN, HUGE_VA, 1) >= 0, "there is room");
    world_end();
}

/* A word log is 66 KiB, whose pages are few. */
static void word_log_quota(void)
{
    struct mm *mm = big_session(64, 500);
    unsigned int i;
    long rc = 0;

    for ( i = 0; i < 64 && rc >= 0; ++i )
        rc = add_range(mm, CDA_MODE_EMULXEN, HUGE_VA + i * 0x400000UL, 1);
    CHECK(rc == -ENOSPC && i > 50, "%u logs: %ld", i, rc);
    world_end();
}

/* Who registers in a loop is told to wait. */
static void register_rate(void)
{
    struct mm *mm = big_session(1UL << 21, 8);
    unsigned int i, n;
    long id;

    for ( n = 0; n < 1000; ++n )
    {
        id = add_range(mm, CDA_MODE_AUTOXEN, HUGE_VA, 1UL << 20);
        if ( id < 0 )
            break;
        CHECK(!drop_range(mm, id), "unregister");
        rcu_drain();
    }
    CHECK(id == -EAGAIN && n >= 20 && n < 50, "%u times, then %ld", n, id);
    /* It does not depend on the session's own time alone. */
    for ( i = 0; i < 100000; ++i )
        NOW();
    CHECK(add_range(mm, CDA_MODE_AUTOXEN, HUGE_VA, 1UL << 20) >= 0, "later");
    world_end();
}

const struct test_case memory_cases[] = {
    { "memory in small pieces", small_pieces },
    { "table of many ranges", many_ranges },
    { "quota of memory", memory_quota },
    { "quota of memory after no memory", memory_refund },
    { "quota of memory, word logs", word_log_quota },
    { "rate of registering", register_rate },
    { NULL, NULL },
};
