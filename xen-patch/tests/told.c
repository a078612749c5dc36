/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a process reads while an operation still runs: every answer is final
 * when it is told, whatever becomes of the rest of it.
 */
#include "world.h"
#include "hw.h"
#include "build/cda.h"

/* Where the structure lies: on two pages, of which the second is not writable. */
static unsigned long at;
static long answer, eager_rc;
static uint64_t told;
static unsigned int eager, shift;

static void write_bytes(struct mm *mm, unsigned long va, const void *from,
                        unsigned int n)
{
    unsigned int i;

    for ( i = 0; i < n; ++i )
    {
        unsigned long f = frame_of(*walk_l1e(mm->l4, va + i));

        phys[f][(va + i) & ~PAGE_MASK] = ((const uint8_t *)from)[i];
        truth_wrote(mm, va + i, f, false);
    }
}

static uint64_t read_word(struct mm *mm, unsigned long va)
{
    uint64_t value = 0;

    CHECK(!get_user(va, &value, sizeof(value)), "read");
    return value;
}

static void attach_it(void *mm)
{
    answer = gate(CDA_OP_attach, at, 0, 0, 0, 0);
}

/* Another thread, which uses the cookie as soon as it reads it. */
static void use_cookie(void *arg)
{
    struct mm *mm = arg;
    struct cda_register reg = {
        .size = sizeof(reg), .mode = CDA_MODE_PTXEN, .start = va_of(0, 0),
        .pages = 4, .log = io_va(2), .log_bytes = 4096,
    };

    told = read_word(mm, at + offsetof(struct cda_attach, cookie));
    if ( !told )
        return;
    switch ( eager )
    {
    case 0:
        eager_rc = gate(CDA_OP_detach, told, 0, 0, 0, 0);
        break;
    case 1:
        write_bytes(mm, io_va(3), &reg, sizeof(reg));
        eager_rc = gate(CDA_OP_register, told, io_va(3), 0, 0, 0);
        if ( eager_rc >= 0 )
            gate(CDA_OP_begin, told, eager_rc, 0, 0, 0);
        break;
    case 2:
        eager_rc = gate(CDA_OP_peek, told, CDA_ALL_RANGES, 0, 0, 0);
        break;
    }
}

/* Bytes of the structure before the border, or 0: all on one page. */
static void attach_with(unsigned int before, const char *pause,
                        unsigned int nth, unsigned int fail_rate)
{
    static task_fn *const fn[2] = { attach_it, use_cookie };
    struct cda_attach a = { .size = sizeof(a) };
    struct cda_ctl_limits l = { .size = sizeof(l), .domid = 1 };
    struct mm *mm;
    void *arg[2];

    world_start();
    mm = world_process();
    mm_load(&vcpus[0], mm);
    mm_load(&vcpus[1], mm);
    arg[0] = arg[1] = mm;
    CHECK(!add_token(7, 0, 0), "token");
    memset(a.token, 7, sizeof(a.token));
    at = before ? io_va(1) - before : io_va(0) + 64 + shift;
    write_bytes(mm, at, &a, sizeof(a));
    if ( before )
        kern_protect(mm, IO_CHUNK, 1, false);
    told = 0;
    eager_rc = -ENOENT;
    copy_fail_rate = fail_rate;
    sched_pause_at(0, pause, nth);
    sched_run(2, fn, arg);
    copy_fail_rate = 0;
    world_be(0);
    CHECK(!told || !answer, "%u bytes before the border, %s %u: attach "
          "answered %ld, and had told a cookie", before, pause, nth, answer);
    CHECK(eager_rc < 0 || !answer, "the cookie of no session worked");
    CHECK(answer == 0 || (answer == -EFAULT &&
          !read_word(mm, at + offsetof(struct cda_attach, cookie))),
          "attach: %ld", answer);
    /* Nothing that failed has left a session, nothing that worked none. */
    CHECK(!ctl(CDA_CTL_get_limits, &l) && l.used_sessions ==
          (answer == 0 && !(told && eager == 0 && eager_rc == 0)), "sessions");
    hw_store(va_of(0, 0), 5);
    truth_check();
    world_end();
}

static void attach_told(void)
{
    static const char *const pauses[] = { "copied", "lock", "unlock" };
    /* All on one page; behind the cookie, in it, before it, and unaligned. */
    static const unsigned int borders[] = { 0, 32, 24, 8, 40, 28, 33, 31, 56 };
    unsigned int i, j, nth;

    for ( eager = 0; eager < 3; ++eager )
        for ( i = 0; i < ARRAY_SIZE(borders); ++i )
            for ( j = 0; j < ARRAY_SIZE(pauses); ++j )
                for ( nth = 1; nth <= (j ? 5 : 20); ++nth )
                    attach_with(borders[i], pauses[j], nth, 0);
}

/* Any page may go at any time. */
static void attach_fails_anywhere(void)
{
    unsigned int n;

    for ( n = 0; n < 600; ++n )
    {
        eager = rnd(3);
        shift = n % 8;            /* it need not be aligned */
        attach_with(0, "copied", 8 + rnd(12), 10);
    }
    shift = 0;
}

/* Two threads attach at once: one session, and one cookie that works. */
static long second_answer;

static void attach_too(void *mm)
{
    second_answer = gate(CDA_OP_attach, io_va(1), 0, 0, 0, 0);
}

static void two_attach(void)
{
    static task_fn *const fn[2] = { attach_it, attach_too };
    unsigned int nth, border;

    for ( border = 0; border <= 1; ++border )
        for ( nth = 1; nth <= 18; ++nth )
        {
            struct cda_attach a = { .size = sizeof(a) };
            struct cda_ctl_limits l = { .size = sizeof(l), .domid = 1 };
            struct mm *mm;
            void *arg[2];

            world_start();
            mm = world_process();
            mm_load(&vcpus[0], mm);
            mm_load(&vcpus[1], mm);
            arg[0] = arg[1] = mm;
            CHECK(!add_token(7, 0, 0) && !add_token(8, 0, 0), "tokens");
            at = border ? io_va(3) - 32 : io_va(0);
            memset(a.token, 7, sizeof(a.token));
            write_bytes(mm, at, &a, sizeof(a));
            memset(a.token, 8, sizeof(a.token));
            write_bytes(mm, io_va(1), &a, sizeof(a));
            if ( border )
                kern_protect(mm, IO_CHUNK, 3, false);
            sched_pause_at(0, "copied", nth);
            sched_run(2, fn, arg);
            world_be(0);
            CHECK(second_answer == 0 || second_answer == -EEXIST, "%ld",
                  second_answer);
            CHECK(answer == 0 || answer == -EEXIST ||
                  (border && answer == -EFAULT), "%ld", answer);
            CHECK(!ctl(CDA_CTL_get_limits, &l) && l.used_sessions ==
                  (answer == 0) + (second_answer == 0), "sessions");
            world_end();
        }
}

/* Another thread waits for the next epoch in the log. */
static uint64_t old_epoch;
static bool seen;

static void commit_0(void *mm)
{
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 2, "two pages");
}

static void watch_log(void *mm)
{
    struct cda_log h;
    uint64_t entry[2];

    CHECK(!get_user(io_va(2), &h, sizeof(h)), "log");
    if ( h.epoch == old_epoch )
        return;
    seen = true;
    CHECK(!get_user(io_va(2) + sizeof(h), entry, sizeof(entry)), "log");
    CHECK(h.epoch == old_epoch + 1 && h.count == 2 && h.dirty == 2 &&
          !h.flags && h.entry_bytes == 8 && entry[0] == 1 && entry[1] == 3,
          "epoch %lu is told, and not its list: %lu of %lu",
          (unsigned long)h.epoch, (unsigned long)h.count,
          (unsigned long)h.dirty);
}

static void log_told(void)
{
    static task_fn *const fn[2] = { commit_0, watch_log };
    unsigned int nth;

    seen = false;
    for ( nth = 1; nth <= 16; ++nth )
    {
        struct mm *mm = world_range(CDA_MODE_PTXEN, 0, 4);
        void *arg[2] = { mm, mm };

        mm_load(&vcpus[1], mm);
        CHECK(!proc_cycle(mm, CDA_OP_begin, 0), "begin");
        CHECK(!proc_cycle(mm, CDA_OP_commit, 0), "commit");
        old_epoch = read_word(mm, io_va(2));
        hw_store(va_of(0, 1), next_stamp());
        hw_store(va_of(0, 3), next_stamp());
        sched_pause_at(0, "copied", nth);
        sched_run(2, fn, arg);
        world_be(0);
        world_end();
    }
    CHECK(seen, "the new epoch was never read");
}

const struct test_case told_cases[] = {
    { "cookie told before attach is final", attach_told },
    { "attach fails anywhere", attach_fails_anywhere },
    { "two attach at once", two_attach },
    { "epoch told before its list", log_told },
    { NULL, NULL },
};
