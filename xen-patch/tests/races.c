/* SPDX-License-Identifier: GPL-2.0-only */
/* Two vCPUs at one chosen point. */
#include "world.h"
#include "hw.h"
#include "build/cda.h"

static void commit_0(void *mm)
{
    proc_cycle(mm, CDA_OP_commit, 0);
}

static void begin_0(void *mm)
{
    proc_cycle(mm, CDA_OP_begin, 0);
}

/* Twice, so that what the first distrusts is protected by the second. */
static void commit_all(void *mm)
{
    proc_cycle(mm, CDA_OP_commit, ALL_RANGES);
    hw_store(va_of(1, 0), next_stamp());
    proc_cycle(mm, CDA_OP_commit, ALL_RANGES);
}

static void store_0(void *mm)
{
    hw_store(va_of(0, 0), next_stamp());
}

static struct mm *forked;
static void fork_it(void *mm)
{
    forked = mm_fork(mm);
}

/* @a until it is @nth @pause, then @b, by what the vCPUs have loaded. */
static void run_loaded(task_fn *a, const char *pause, unsigned int nth,
                       task_fn *b, struct mm *mm)
{
    task_fn *fn[2] = { a, b };
    void *arg[2] = { mm, mm };

    world_be(0);
    sched_pause_at(0, pause, nth);
    sched_run(2, fn, arg);
    world_be(0);
}

static void run(task_fn *a, const char *pause, unsigned int nth, task_fn *b,
                struct mm *mm)
{
    mm_load(&vcpus[1], mm);
    run_loaded(a, pause, nth, b, mm);
}

/*
 * A fork copies an entry that begin has just protected, in a table that begin
 * has not finished with.  Stops everywhere in begin.
 */
static void fork_in_begin(void)
{
    static const char *const at[] = { "cmpxchg", "page_locked", "page_unlock",
                                      "lock", "unlock", "flush" };
    unsigned int i, nth;

    for ( i = 0; i < ARRAY_SIZE(at); ++i )
        for ( nth = 1; nth <= 6; ++nth )
        {
            unsigned int a;
            struct mm *mm;

            world_start();
            mm = world_session(0);
            /* Only the first page is writable: the fork needs no lock. */
            for ( a = 1; a < NR_ACTIVE; ++a )
                kern_protect(mm, 0, a, false);
            proc_register(mm, 0, va_of(0, 0), 4, io_va(2), 4096);
            run(begin_0, at[i], nth, fork_it, mm);
            hw_store(va_of(0, 0), 666);
            CHECK(content(forked, va_of(0, 0)) != 666, "%s %u", at[i], nth);
            truth_check();
            world_end();
        }
}

/* Commit finds another table, and forgets the old one while a fork looks. */
static void fork_in_replace(void)
{
    unsigned int nth;

    for ( nth = 1; nth <= 8; ++nth )
    {
        struct mm *mm;

        world_start();
        mm = world_session(0);
        proc_register(mm, 0, va_of(0, 0), 4, io_va(2), 4096);
        proc_cycle(mm, CDA_OP_begin, 0);
        hw_store(va_of(0, 0), 5);
        kern_move_table(mm, 0, 1);
        run(commit_0, nth & 1 ? "unlock" : "page_lock", (nth + 1) / 2, fork_it,
            mm);
        hw_store(va_of(1, 0), 666);
        CHECK(content(forked, va_of(1, 0)) != 666, "%u", nth);
        truth_check();
        world_end();
    }
}

/*
 * A fork has shared a page which it took for read-only, when a fault through
 * another address makes the entry writable: its table was there before, and
 * the chunk is still bound to it.  A commit then finds the other table.  The
 * hook, or the commit before it forgets, must take that back.
 */
static void grant_and_commit(void *mm)
{
    CHECK(hw_xen_store(va_of(0, 0), 1) == -EFAULT, "no longer there");
    proc_cycle(mm, CDA_OP_commit, 0);
}

/* The kernel ages the page: it writes back RW which it never gave. */
static void grant_and_age(void *mm)
{
    const unsigned long *p = walk_l1e(((struct mm *)mm)->l4, va_of(1, 0));

    CHECK(hw_xen_store(va_of(0, 0), 1) == -EFAULT, "no longer there");
    CHECK(*p & _PAGE_RW, "granted");
    set_pte(mm, 1, 0, *p & ~(unsigned long)_PAGE_ACCESSED, false);
}

static void fork_and_store(void *mm)
{
    fork_it(mm);
    hw_store(va_of(1, 0), 666);
    CHECK(content(forked, va_of(1, 0)) != 666, "the child's page changed");
}

static void grant_in_fork(void)
{
    static const char *const at[] = { "age", "lock", "unlock", "page_lock",
                                      "page_locked", "page_unlock" };
    unsigned int i, nth;

    for ( i = 0; i < ARRAY_SIZE(at); ++i )
        for ( nth = 1; nth <= 8; ++nth )
        {
            struct mm *mm;

            world_start();
            mm = world_session(0);
            proc_register(mm, 0, va_of(0, 0), 4, io_va(2), 4096);
            proc_cycle(mm, CDA_OP_begin, 0);
            kern_move_table(mm, 0, 1);
            kern_map_zero(mm, 0, 0);
            sched_pause_at(1, at[i], nth);
            run(fork_and_store, "copy_pte", 2,
                i ? grant_and_commit : grant_and_age, mm);
            truth_check();
            world_end();
        }
}

/* A fault that found the old binding, when another chunk has the table. */
static void fault_in_replace(void)
{
    struct mm *mm;

    world_start();
    mm = world_session(0);
    proc_register(mm, 0, va_of(0, 0), 4, io_va(2), 4096);
    proc_register(mm, 1, va_of(1, 0), 4, io_va(3), 4096);
    proc_cycle(mm, CDA_OP_begin, ALL_RANGES);
    kern_move_table(mm, 0, 1);
    hw_store(va_of(1, 0), next_stamp());   /* the kernel gives RW there */
    kern_map_zero(mm, 0, 0);
    run(store_0, "page_lock", 1, commit_all, mm);
    truth_check();
    world_end();
}

static void revoke_all(void *unused)
{
    struct cda_ctl_revoke rv = { .size = sizeof(rv), .domid = 1 };
    struct vcpu *v = current;

    v->domain = &dom0;
    ctl_as(v, CDA_CTL_revoke, &rv);
    v->domain = &domu;
}

/* Once marked, nothing is granted any more. */
static void fault_in_revoke_with(unsigned int mode)
{
    struct cda_ctl_counters c = { .size = sizeof(c), .domid = 1 };
    struct mm *mm;

    world_start();
    mm = world_session(0);
    proc_mode = mode;
    proc_register(mm, 0, va_of(0, 0), 4, io_va(2), 4096);
    proc_mode = CDA_MODE_PTXEN;
    proc_cycle(mm, CDA_OP_begin, 0);
    run(revoke_all, "unlock", 1, store_0, mm);
    CHECK(!ctl(CDA_CTL_counters, &c) && !c.counters.faults_fixed &&
          !c.counters.emulated, "granted");
    truth_check();
    world_end();
}

static void fault_in_revoke(void)
{
    fault_in_revoke_with(CDA_MODE_PTXEN);
    fault_in_revoke_with(CDA_MODE_EMULXEN);
}

static void exit_it(void *mm)
{
    mm_load(current, NULL);
    mm_exit(mm);
    proc_forget(mm);
}

/* The address space goes while Dom0 takes back what its session granted. */
static void exit_in_revoke(void)
{
    static const char *const at[] = { "lock", "unlock", "preempt",
                                      "page_locked", "flush" };
    unsigned int i, nth;

    for ( i = 0; i < ARRAY_SIZE(at); ++i )
        for ( nth = 1; nth <= 12; ++nth )
        {
            struct mm *mm, *other;

            world_start();
            other = world_session(0);
            proc_register(other, 0, va_of(0, 0), 4, io_va(2), 4096);
            mm = world_session(1);
            proc_register(mm, 0, va_of(0, 509), 7, io_va(2), 4096);
            proc_mode = CDA_MODE_EMULXEN;
            proc_register(mm, 1, va_of(3, 0), 4, io_va(3), 4096);
            proc_mode = CDA_MODE_PTXEN;
            proc_cycle(mm, CDA_OP_begin, ALL_RANGES);
            world_be(0);
            mm_load(&vcpus[0], NULL);
            run_loaded(revoke_all, at[i], nth, exit_it, mm);
            rcu_poll();
            truth_check();
            world_end();
        }
}

/* Between protecting and the flush, the frame gets another type. */
static unsigned long typed_frame;
static void make_segdesc(void *mm)
{
    CHECK(get_page_type(&frame_table[typed_frame], PGT_seg_desc_page), "type");
    ((struct mm *)mm)->page[0][0].vma_w = false;
    CHECK(hw_store(va_of(0, 0), 1) == -EFAULT, "a descriptor was written");
    put_page_type(&frame_table[typed_frame]);
}

static void type_before_flush(void)
{
    struct mm *mm;

    world_start();
    mm = world_session(0);
    typed_frame = frame_of(*walk_l1e(mm->l4, va_of(0, 0)));
    proc_register(mm, 0, va_of(0, 0), 4, io_va(2), 4096);
    put_page_type(&frame_table[typed_frame]);
    dmap_rw[typed_frame] = false;
    mm_load(&vcpus[1], mm);
    flush_tlb_mask(NULL);
    world_be(1);
    hw_store(va_of(0, 0), 1);     /* now cached as writable */
    world_be(0);
    run(begin_0, "flush", 1, make_segdesc, mm);
    CHECK(get_page_type(&frame_table[typed_frame], PGT_writable_page), "type");
    dmap_rw[typed_frame] = true;
    world_end();
}

/* Xen writes to a withheld page whose table this very CPU has locked. */
static void nested(void *arg)
{
    struct page_info *pg = &frame_table[((struct mm *)arg)->l1[0]];

    CHECK(page_lock(pg), "lock");
    CHECK(hw_xen_store(va_of(0, 0), 1) == -EFAULT, "fails like read-only");
    page_unlock(pg);
    CHECK(!hw_xen_store(va_of(0, 0), 1), "and works without");
}

static void xen_fault_nested(void)
{
    struct mm *mm;

    world_start();
    mm = world_session(0);
    proc_register(mm, 0, va_of(0, 0), 4, io_va(2), 4096);
    proc_cycle(mm, CDA_OP_begin, 0);
    run(nested, "", 0, NULL, mm);
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 1, "reported");
    world_end();
}

/* A second thread in the middle of an operation of the first. */
static void query_it(void *mm)
{
    struct cda_query q;

    CHECK(proc_query(mm, &q) == -EAGAIN, "the session is busy");
}

static void second_thread(void)
{
    struct mm *mm;

    world_start();
    mm = world_session(0);
    proc_register(mm, 0, va_of(0, 0), 4, io_va(2), 4096);
    run(begin_0, "page_locked", 1, query_it, mm);
    world_end();
}

/* Once through the gate, restart or not. */
static void once(struct cpu_user_regs *regs)
{
    regs->rip = 0x1002;
    do_entry_int84(regs);
}

/*
 * Two executions of the same operation, both interrupted: only the later one
 * may go on.
 */
static void tickets(void)
{
    unsigned int all;

    for ( all = 0; all < 2; ++all )
    {
        struct cpu_user_regs a = { .rax = CDA_OP_commit, .cs = 0x33 }, b, c;
        struct mm *mm;

        world_start();
        mm = world_session(0);
        proc_register(mm, 0, va_of(0, 509), 7, io_va(2), 4096);
        proc_register(mm, 1, va_of(2, 509), 7, io_va(3), 4096);
        proc_cycle(mm, CDA_OP_begin, ALL_RANGES);
        a.rdi = mm->proc.cookie;
        a.rsi = all ? CDA_ALL_RANGES : 0;
        b = c = a;
        c.r8 = 1000;
        once(&c);
        CHECK(c.rax == -EINVAL && !c.r8, "a ticket nobody gave out");
        hw_store(va_of(0, 509), 5);
        preempt_rate = 1;
        once(&a);
        CHECK(a.rip == 0x1000 && a.r8, "interrupted");
        hw_store(va_of(0, 509), 6);
        once(&b);
        CHECK(b.rip == 0x1000 && b.r8 && b.r8 != a.r8, "interrupted");
        preempt_rate = 0;
        once(&a);
        CHECK(a.rip == 0x1002 && a.rax == -EAGAIN && !a.r8,
              "continues what another took over");
        once(&b);
        CHECK(b.rip == 0x1002 && (int64_t)b.rax >= 0 && !b.r8 &&
              (b.rax & CDA_RESULT_LOST), "goes on; a's list is lost");
        world_end();
    }
}

static void register_it(void *mm)
{
    CHECK(proc_register(mm, 1, va_of(3, 0), 4, io_va(3), 4096) > 0, "id");
}

/* The table of ranges is replaced while a fork walks the old one. */
static void register_in_fork(void)
{
    struct mm *mm;

    world_start();
    mm = world_session(0);
    proc_register(mm, 0, va_of(0, 509), 7, io_va(2), 4096);
    proc_cycle(mm, CDA_OP_begin, 0);
    run(fork_it, "preempt", 1, register_it, mm);
    world_end();
}

static void unregister_it(void *mm)
{
    CHECK(!proc_unregister(mm, 0), "unregister");
}

/* The range itself goes meanwhile. */
static void unregister_in_fork(void)
{
    struct mm *mm;

    world_start();
    mm = world_session(0);
    proc_register(mm, 0, va_of(0, 509), 7, io_va(2), 4096);
    proc_cycle(mm, CDA_OP_begin, 0);
    run(fork_it, "preempt", 1, unregister_it, mm);
    world_end();
}

static void detach_it(void *mm)
{
    CHECK(!proc_detach(mm), "detach");
}

static void query_late(void *mm)
{
    struct cda_query q;

    CHECK(proc_query(mm, &q) == -ENOENT, "the session has ended");
}

/* Found, and ended before it could be locked. */
static void ended_session(void)
{
    struct mm *mm;

    world_start();
    mm = world_session(0);
    run(query_late, "lock", 1, detach_it, mm);
    world_end();
}

static void recreate_0(void *mm)
{
    kern_recreate_table(mm, 0);
}

/* The table stops being one between a look at the L2 entry and its lock. */
static void recreate_in_commit(void)
{
    unsigned int nth;

    for ( nth = 1; nth <= 3; ++nth )
    {
        struct mm *mm;

        world_start();
        mm = world_session(0);
        proc_register(mm, 0, va_of(0, 0), 4, io_va(2), 4096);
        proc_cycle(mm, CDA_OP_begin, 0);
        hw_store(va_of(0, 0), 5);
        run(commit_0, "page_lock", nth, recreate_0, mm);
        truth_check();
        proc_cycle(mm, CDA_OP_commit, 0);
        truth_check();
        world_end();
    }
}

static void store_and_commit_0(void *mm)
{
    hw_store(va_of(0, 0), next_stamp());
    proc_cycle(mm, CDA_OP_commit, 0);
}

/*
 * A fault grants write access; another thread uses it at once, and commits.
 * Its list must have the page.
 */
static void commit_in_fault(void)
{
    unsigned int nth;

    for ( nth = 1; nth <= 3; ++nth )
    {
        struct mm *mm;

        world_start();
        mm = world_session(0);
        proc_register(mm, 0, va_of(0, 0), 4, io_va(2), 4096);
        proc_cycle(mm, CDA_OP_begin, 0);
        run(store_0, "set_bit", nth, store_and_commit_0, mm);
        truth_check();
        world_end();
    }
}

const struct test_case races[] = {
    { "fork within begin", fork_in_begin },
    { "fork while a table is replaced", fork_in_replace },
    { "grant within a fork", grant_in_fork },
    { "fault while a table is replaced", fault_in_replace },
    { "fault within revoke", fault_in_revoke },
    { "exit within revoke", exit_in_revoke },
    { "type change before the flush", type_before_flush },
    { "Xen's fault under page_lock()", xen_fault_nested },
    { "second thread", second_thread },
    { "tickets", tickets },
    { "register within a fork", register_in_fork },
    { "unregister within a fork", unregister_in_fork },
    { "session ends before its lock", ended_session },
    { "table anew within commit", recreate_in_commit },
    { "commit within a fault", commit_in_fault },
    { NULL, NULL },
};
