/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the guest reads as read-only, no CPU writes: RW that Xen takes out of an
 * entry is out of all TLBs when the operation that took it returns, also one
 * which is interrupted, or fails.  hw_check_tlbs() looks.
 */
#include "world.h"
#include "hw.h"
#include "build/cda.h"

/* Pages 0 to 3 of chunk 0, all of them granted and cached on vCPU 1. */
static struct mm *cached(unsigned int mode)
{
    struct mm *mm = world_range(mode, 0, 4);
    unsigned int i;

    mm_load(&vcpus[1], mm);
    CHECK(!proc_cycle(mm, CDA_OP_begin, 0), "begin");
    world_be(1);
    for ( i = 0; i < 4; ++i )
        hw_store(va_of(0, i), next_stamp());
    world_be(0);
    return mm;
}

static unsigned long entry(struct mm *mm, unsigned int slot)
{
    return *walk_l1e(mm->l4, va_of(0, slot));
}

static bool cached_rw(unsigned int v, unsigned int slot)
{
    return hw_cached_rw(&vcpus[v], va_of(0, slot));
}

/* The guest's xchg, and how many flushes of Xen's came with it. */
static unsigned long take(struct mm *mm, unsigned int slot, unsigned long *was)
{
    unsigned long before = hw_flushes;

    *was = take_pte(mm, 0, slot);
    return hw_flushes - before;
}

static void read_flushes(void)
{
    struct cda_query q;
    unsigned long was, first, faults, forwarded;
    struct mm *mm = cached(CDA_MODE_PTXEN);
    unsigned int i;

    CHECK(cached_rw(1, 0) && cached_rw(1, 3), "cached");
    CHECK(take(mm, 0, &first) == 1, "one flush");
    CHECK(!(first & _PAGE_RW) && !cached_rw(1, 0), "RW of Xen's, read or cached");
    /* The neighbours with it, so that they need no flush of their own. */
    for ( i = 1; i < 4; ++i )
        CHECK(!(entry(mm, i) & _PAGE_RW) && (entry(mm, i) & CDA_L1E_RO) &&
              !cached_rw(1, i), "slot %u: %#lx", i, entry(mm, i));
    for ( i = 1; i < 3; ++i )
    {
        CHECK(!take(mm, i, &was), "a flush for each entry");
        set_pte(mm, 0, i, was, false);
    }
    set_pte(mm, 0, 0, first | _PAGE_RW, false);

    /* Written in this cycle, and still Xen's to grant: in it and in the next. */
    CHECK(!proc_query(mm, &q), "query");
    forwarded = q.counters.faults_forwarded;
    faults = q.counters.faults_fixed;
    world_be(1);
    hw_store(va_of(0, 3), next_stamp());
    world_be(0);
    CHECK((entry(mm, 3) & (_PAGE_RW | CDA_L1E_RO)) == (_PAGE_RW | CDA_L1E_RO),
          "granted again: %#lx", entry(mm, 3));
    kern_fault(mm, va_of(0, 0), true);
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 4, "all of them are listed");
    hw_store(va_of(0, 3), next_stamp());
    CHECK(!proc_query(mm, &q) && q.counters.faults_forwarded == forwarded &&
          q.counters.faults_fixed == faults + 2, "resolved by Xen");
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) >= 1, "listed");
    truth_check();
    world_end();
}

/* A page which the guest's read withheld stays Xen's when the cycle ends. */
static void withheld_is_kept(void)
{
    struct mm *mm = cached(CDA_MODE_PTXEN);
    unsigned long was;
    struct cda_query q;

    take(mm, 0, &was);
    set_pte(mm, 0, 0, was | _PAGE_RW, false);
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 4, "listed");
    CHECK((entry(mm, 2) & CDA_L1E_TRACKED) == CDA_L1E_RO, "%#lx", entry(mm, 2));
    CHECK(!proc_cycle(mm, CDA_OP_commit, 0), "and once only");
    hw_store(va_of(0, 2), next_stamp());
    CHECK(!proc_query(mm, &q) && !q.counters.faults_forwarded &&
          q.counters.faults_fixed == 5, "granted");
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 1, "listed");
    truth_check();
    world_end();
}

/* Watched pages: written or not, D says so to the end. */
static void read_watched(void)
{
    struct mm *mm = world_range(CDA_MODE_SCANXEN, 0, 4);
    unsigned long was;

    mm_load(&vcpus[1], mm);
    CHECK(!proc_cycle(mm, CDA_OP_begin, 0), "begin");
    world_be(1);
    hw_store(va_of(0, 0), next_stamp());
    hw_store(va_of(0, 1), next_stamp());
    world_be(0);
    CHECK(take(mm, 0, &was) == 1 && !(was & _PAGE_RW), "taken");
    set_pte(mm, 0, 0, was | _PAGE_RW, false);
    CHECK(!cached_rw(1, 1), "a watched page is flushed as well");
    CHECK(proc_cycle(mm, CDA_OP_peek, 0) == 2, "what was written");
    world_be(1);
    hw_store(va_of(0, 2), next_stamp());
    world_be(0);
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 3 && proc_reported(mm, 0, 1) &&
          proc_reported(mm, 0, 2) && !proc_reported(mm, 0, 3), "exact");
    hw_store(va_of(0, 1), next_stamp());
    hw_store(va_of(0, 3), next_stamp());
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 2, "exact");
    truth_check();
    world_end();
}

/* The CPU sets D while a clean watched page is withheld. */
static void store_3(void *mm)
{
    hw_store(va_of(0, 3), next_stamp());
}

static void take_0(void *mm)
{
    unsigned long was;

    take(mm, 0, &was);
    set_pte(mm, 0, 0, was | _PAGE_RW, false);
}

static void store_while_withheld(void)
{
    static task_fn *const fn[2] = { take_0, store_3 };
    unsigned int nth;

    for ( nth = 1; nth <= 8; ++nth )
    {
        struct mm *mm = world_range(CDA_MODE_SCANXEN, 0, 4);
        void *arg[2] = { mm, mm };

        mm_load(&vcpus[1], mm);
        CHECK(!proc_cycle(mm, CDA_OP_begin, 0), "begin");
        hw_store(va_of(0, 0), next_stamp());
        world_be(0);
        sched_pause_at(0, "cmpxchg", nth);
        sched_run(2, fn, arg);
        world_be(0);
        proc_cycle(mm, CDA_OP_commit, 0);
        CHECK(proc_reported(mm, 0, 3), "a write is missed (%u)", nth);
        truth_check();
        world_end();
    }
}

/* Once through the gate; true if it is to be executed again. */
static bool interrupted(struct mm *mm, unsigned int op, uint64_t argument)
{
    struct cpu_user_regs regs = { .rax = op, .rdi = mm->proc.cookie,
                                  .rsi = argument, .cs = 0x33,
                                  .rip = 0x1002 };

    preempt_rate = 1;
    do_entry_int84(&regs);
    preempt_rate = 0;
    return regs.rip == 0x1000;
}

/* Never called again: a signal handler did not come back. */
static void abandoned(unsigned int op)
{
    struct mm *mm;
    unsigned int i;

    world_start();
    mm = world_session(0);
    CHECK(!proc_register(mm, 0, va_of(0, 0), 1024, io_va(2), 4096), "id");
    mm_load(&vcpus[1], mm);
    CHECK(!proc_cycle(mm, CDA_OP_begin, 0), "begin");
    world_be(1);
    for ( i = 0; i < 4; ++i )
        hw_store(va_of(0, i), next_stamp());
    world_be(0);
    CHECK(interrupted(mm, op, 0), "interrupted");
    for ( i = 0; i < 4; ++i )
        CHECK(!cached_rw(1, i) || (entry(mm, i) & _PAGE_RW),
              "op %u: slot %u is read-only, and written", op, i);
    hw_check_tlbs();
    CHECK(!gate(op, mm->proc.cookie, 0, 0, 0, 0), "the rest");
    proc_forget(mm);
    truth_check();
    world_end();
}

static void abandoned_ends(void)
{
    abandoned(CDA_OP_unregister);
    abandoned(CDA_OP_detach);
}

/* Of two ranges one goes, and there is no memory for a shorter table. */
static void no_memory_to_unregister(void)
{
    struct mm *mm = cached(CDA_MODE_PTXEN);

    CHECK(proc_register(mm, 1, va_of(2, 0), 4, io_va(3), 4096) > 0, "id");
    alloc_fail_nth = 1;
    CHECK(proc_unregister(mm, 0) == -ENOMEM, "no memory");
    alloc_fail_nth = 0;
    CHECK(!cached_rw(1, 0) || (entry(mm, 0) & _PAGE_RW), "cached");
    hw_check_tlbs();
    CHECK(!proc_unregister(mm, 0), "unregister");
    truth_check();
    world_end();
}

const struct test_case stale_cases[] = {
    { "what the guest reads is flushed", read_flushes },
    { "withheld pages are kept", withheld_is_kept },
    { "watched pages are withheld", read_watched },
    { "write while a page is withheld", store_while_withheld },
    { "abandoned ends are flushed", abandoned_ends },
    { "no memory to unregister", no_memory_to_unregister },
    { NULL, NULL },
};
