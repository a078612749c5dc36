/* SPDX-License-Identifier: GPL-2.0-only */
/* Stores which Xen performs and logs: Emulxen. */
#include "world.h"
#include "hw.h"
#include "build/cda.h"

/* The page that faults, in chunk 0. */
#define PAGE 1u
#define AT va_of(0, PAGE)
#define FAULT_USER 7u

static struct mm *emulxen(void)
{
    struct mm *mm = world_range(CDA_MODE_EMULXEN, 0, 4);

    CHECK(!proc_cycle(mm, CDA_OP_begin, 0), "begin");
    return mm;
}

static enum cda_stored put(struct cda_store *st, unsigned long va,
                           unsigned int bytes)
{
    static const uint8_t data[32] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
                                      13, 14, 15, 16 };

    return cda_store_write(st, va, data, bytes);
}

/* What is asked of the store that faulted, and what is not granted. */
static void shapes(struct cda_store *st, unsigned long va)
{
    uint64_t old = 5, new = 77;

    CHECK(put(st, va + 64, 0) == CDA_REFUSED, "nothing");
    CHECK(put(st, va + 64, 17) == CDA_REFUSED, "17 bytes");
    CHECK(put(st, va + 4092, 8) == CDA_REFUSED, "over the end");
    CHECK(put(st, va - 4, 8) == CDA_REFUSED, "over the beginning");
    CHECK(put(st, va_of(0, 2) + 64, 8) == CDA_REFUSED, "another page");
    CHECK(cda_store_cmpxchg(st, va + 64, &old, &new, 3) == CDA_REFUSED,
          "cmpxchg of 3");
    CHECK(cda_store_cmpxchg(st, va + 68, &old, &new, 8) == CDA_REFUSED,
          "cmpxchg unaligned");
    CHECK(cda_store_cmpxchg(st, va + 64, &old, &new, 8) == CDA_DIFFERS &&
          !old, "cmpxchg of another value");
    CHECK(cda_store_cmpxchg(st, va + 64, &old, &new, 8) == CDA_STORED, "same");
    CHECK(put(st, va + 80, 1) == CDA_STORED, "1 byte");
    CHECK(put(st, va + 88, 6) == CDA_STORED, "6 bytes");
    CHECK(put(st, va + 96, 16) == CDA_STORED, "16 bytes");
}

static void what_is_logged(void)
{
    static const struct { unsigned int at, bytes; uint64_t value; } want[] = {
        { 64, 8, 77 }, { 80, 1, 1 }, { 88, 4, 0x04030201 }, { 92, 2, 0x0605 },
        { 96, 8, 0x0807060504030201 }, { 104, 8, 0x100f0e0d0c0b0a09 },
        { 0, 8, 4711 },
    };
    struct mm *mm = world_range(CDA_MODE_EMULXEN, 0, 4);
    unsigned long *p = walk_l1e(mm->l4, AT);
    uint64_t e[2];
    unsigned int i;

    CHECK(!gate(CDA_OP_begin, mm->proc.cookie, 0, 0, 0, 0), "begin");
    emul_first = shapes;
    CHECK(!hw_store(AT, 4711), "store");
    CHECK(!(*p & _PAGE_RW), "still protected");
    CHECK(gate(CDA_OP_commit, mm->proc.cookie, 0, 0, 0, 0) ==
          ARRAY_SIZE(want), "entries");
    for ( i = 0; i < ARRAY_SIZE(want); ++i )
    {
        CHECK(!get_user(io_va(2) + 64 + 16 * i, e, sizeof(e)), "log");
        CHECK((e[0] & CDA_ENTRY_INDEX) == PAGE * PAGE_SIZE + want[i].at &&
              (e[0] >> CDA_ENTRY_KIND_SHIFT & 15) == CDA_ENTRY_WORD &&
              e[0] >> CDA_ENTRY_SIZE_SHIFT == want[i].bytes - 1 &&
              e[1] == want[i].value, "entry %u: %lx %lx", i, e[0], e[1]);
        CHECK(!memcmp((uint8_t *)table(frame_of(*p)) + want[i].at, &e[1],
                      want[i].bytes), "memory");
    }
    world_end();
}

/* Until the log is full, and one more. */
static unsigned int fill_bytes;
static void fill(struct cda_store *st, unsigned long va)
{
    unsigned int n = 1;

    CHECK(put(st, va + 64, 8) == CDA_STORED, "first");
    while ( put(st, va + 64, fill_bytes) == CDA_STORED )
        CHECK(++n < 5000, "no end");
    while ( put(st, va + 64, 8) == CDA_STORED )
        CHECK(++n < 5000, "no end");
    CHECK(n > 500, "full after %u", n);
}

static void log_full(void)
{
    static const uint8_t sizes[] = { 8, 16, 7, 15 };
    unsigned int i;

    for ( i = 0; i < ARRAY_SIZE(sizes); ++i )
    {
        struct mm *mm = emulxen();
        struct cda_query q;

        fill_bytes = sizes[i];
        proc_cycle(mm, CDA_OP_commit, 0);  /* the second list is the last */
        emul_first = fill;
        CHECK(!hw_store(AT, next_stamp()), "store");
        CHECK(*walk_l1e(mm->l4, AT) & _PAGE_RW, "a page entry from now on");
        CHECK(!proc_query(mm, &q) && !q.counters.emulated &&
              q.counters.degraded == 1, "counted");
        world_end();
    }
}

/* What another vCPU does between the fault and the store. */
static enum { ABSENT_NOW, WRITABLE, GRANTED, READ_ONLY, READ_ONLY_WAY,
              MOVED, ANEW, NR_CHANGES } change;
static struct mm *changed;

static void change_it(struct cda_store *st, unsigned long va)
{
    unsigned long *p = walk_l1e(changed->l4, va), was = *p;
    enum cda_stored want = CDA_REFUSED, rc;

    switch ( change )
    {
    case ABSENT_NOW:
        set_pte(changed, 0, PAGE, was & ~(unsigned long)_PAGE_PRESENT, false);
        break;
    case WRITABLE:
        set_pte(changed, 0, PAGE, was | _PAGE_RW, true);
        want = CDA_AGAIN;
        break;
    case GRANTED:
    {
        struct cpu_user_regs regs = { .eflags = X86_EFLAGS_IF,
            .error_code = FAULT_USER & ~PFEC_user_mode };

        CHECK(cda_fixup_fault(va, &regs), "granted");
        want = CDA_AGAIN;
        break;
    }
    case READ_ONLY:
        kern_protect(changed, 0, PAGE, false);
        break;
    case READ_ONLY_WAY:
        kern_l2_readonly(changed, 0, true);
        break;
    case MOVED:
        kern_move_table(changed, 0, 1);
        kern_map_zero(changed, 0, PAGE);
        break;
    case ANEW:
        kern_recreate_table(changed, 0);
        break;
    default:
        break;
    }
    rc = put(st, va + 64, 8);
    CHECK(rc == want, "change %u: %u", change, rc);
    if ( change == ABSENT_NOW )
        set_pte(changed, 0, PAGE, was, false);
    if ( change == READ_ONLY_WAY )
        kern_l2_readonly(changed, 0, false);
}

static void changes(void)
{
    for ( change = 0; change < NR_CHANGES; ++change )
    {
        changed = emulxen();
        emul_first = change_it;
        hw_store(AT, next_stamp());
        CHECK(!emul_first, "change %u: not asked", change);
        truth_check();
        proc_cycle(changed, CDA_OP_commit, 0);
        world_end();
    }
}

/* Whose stores are not looked at at all. */
static void never(struct cda_store *st, unsigned long va)
{
    CHECK(false, "Xen performs what is not the process's");
}

static void whose(void)
{
    unsigned int i;

    for ( i = 0; i < 4; ++i )
    {
        struct mm *mm = emulxen();
        struct cpu_user_regs regs = {
            .error_code = i == 3 ? FAULT_USER & ~PFEC_user_mode : FAULT_USER,
            .eflags = X86_EFLAGS_IF,
            .rip = i == 1 ? 1UL << 47 : 0x1000, .cs = i == 2 ? 0x23 : 0x33,
        };

        vcpus[0].arch.flags = i == 0 ? TF_kernel_mode : 0;
        emul_first = never;
        CHECK(cda_fixup_fault(AT, &regs), "granted");
        emul_first = NULL;
        vcpus[0].arch.flags = 0;
        truth_touched(mm, AT, 1);
        CHECK(*walk_l1e(mm->l4, AT) & _PAGE_RW, "granted");
        CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 1, "reported");
        world_end();
    }
}

/* More stores, or pages, than the process's log has room for. */
static void small_log_with(unsigned int mode, unsigned long bytes)
{
    struct mm *mm;
    uint64_t canary = 0x1234, now;
    unsigned int i;
    long rc;

    world_start();
    mm = world_session(0);
    proc_mode = mode;
    proc_register(mm, 0, va_of(0, 0), 4, io_va(2), bytes);
    proc_mode = CDA_MODE_PTXEN;
    proc_cycle(mm, CDA_OP_begin, 0);
    CHECK(!put_user(io_va(2) + bytes, &canary, 8), "put");
    for ( i = 0; i < 4; ++i )
        hw_store(va_of(0, i), next_stamp());
    rc = proc_cycle(mm, CDA_OP_commit, 0);
    CHECK(rc == (4 | CDA_RESULT_LOST), "%lx", rc);
    CHECK(!get_user(io_va(2) + bytes, &now, 8) && now == canary,
          "written beyond the log");
    world_end();
}

static void small_log(void)
{
    small_log_with(CDA_MODE_EMULXEN, 64 + 5 * 8);
    small_log_with(CDA_MODE_PTXEN, 64 + 2 * 8);
}

/* Header on a good page, entries on one that cannot be written. */
static void lost_log(void)
{
    struct mm *mm;

    world_start();
    mm = world_session(0);
    proc_mode = CDA_MODE_EMULXEN;
    proc_register(mm, 0, va_of(0, 0), 4, io_va(3) - 64, 128);
    proc_mode = CDA_MODE_PTXEN;
    proc_cycle(mm, CDA_OP_begin, 0);
    hw_store(AT, next_stamp());
    kern_protect(mm, IO_CHUNK, 3, false);
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) & CDA_RESULT_LOST, "lost");
    world_end();
}

/* Logs cost memory: so many a domain, whoever ends however. */
static long range_no(struct mm *mm, unsigned int i, unsigned int mode)
{
    struct cda_register reg = {
        .size = sizeof(reg), .mode = mode, .start = va_of(0, i), .pages = 1,
        .log = va_of(IO_CHUNK, 20) + 64UL * i, .log_bytes = 64,
    };

    CHECK(!put_user(io_va(0), &reg, sizeof(reg)), "put");
    return gate(CDA_OP_register, mm->proc.cookie, io_va(0), 0, 0, 0);
}

static void all_logs(struct mm *mm, unsigned int first)
{
    unsigned int i;

    for ( i = first; i < 64; ++i )
        CHECK(range_no(mm, i, CDA_MODE_EMULXEN) >= 0, "log %u", i);
    CHECK(range_no(mm, 64, CDA_MODE_EMULXEN) == -ENOSPC, "one too many");
    CHECK(range_no(mm, 64, CDA_MODE_PTXEN) >= 0, "others need none");
}

static void number_of_logs(void)
{
    struct cda_ctl_limits l = { .size = sizeof(l), .domid = 1 };
    struct cda_ctl_revoke rv = { .size = sizeof(rv), .domid = 1 };
    struct mm *mm;
    unsigned int i;

    world_start();
    CHECK(!ctl(CDA_CTL_get_limits, &l), "limits");
    l.max_ranges = 100;
    CHECK(!ctl(CDA_CTL_set_limits, &l), "limits");
    mm = world_session(0);
    all_logs(mm, 0);
    CHECK(!gate(CDA_OP_unregister, mm->proc.cookie, 0, 0, 0, 0), "unregister");
    for ( i = 1; i <= 5; ++i )    /* each allocation in turn */
    {
        alloc_fail_nth = i;
        CHECK(range_no(mm, 0, CDA_MODE_EMULXEN) == -ENOMEM, "memory %u", i);
    }
    alloc_fail_nth = 0;
    CHECK(range_no(mm, 0, CDA_MODE_EMULXEN) >= 0, "again");
    CHECK(!ctl(CDA_CTL_revoke, &rv), "revoke");
    CHECK(!proc_detach(mm) && !add_token(200, 0, 0) && !proc_attach(mm, 200),
          "attach");
    all_logs(mm, 0);
    /* It exits. */
    mm_load(&vcpus[0], NULL);
    mm_exit(mm);
    proc_forget(mm);
    all_logs(world_session(0), 0);
    world_end();
}

/* Memory of former ranges counts for as long as somebody may look at it. */
static void former_ranges(void)
{
    struct mm *mm;
    unsigned int n;
    long id;

    world_start();
    mm = world_session(0);
    vcpus[1].rcu_depth = 1;
    for ( n = 0; (id = range_no(mm, 0, CDA_MODE_EMULXEN)) >= 0; ++n )
    {
        CHECK(n < 100, "no limit");
        CHECK(!gate(CDA_OP_unregister, mm->proc.cookie, id, 0, 0, 0),
              "unregister");
    }
    CHECK(id == -EAGAIN && n >= 60, "%ld after %u", id, n);
    vcpus[1].rcu_depth = 0;
    rcu_drain();
    CHECK(range_no(mm, 0, CDA_MODE_EMULXEN) >= 0, "again");
    world_end();
}

static void commit_0(void *mm)
{
    proc_cycle(mm, CDA_OP_commit, 0);
}

static void store_0(void *mm)
{
    hw_store(va_of(0, 0), next_stamp());
}

static void store_1(void *mm)
{
    hw_store(va_of(0, 1), next_stamp());
}

static void run(task_fn *a, const char *pause, unsigned int nth, task_fn *b,
                struct mm *mm)
{
    task_fn *fn[2] = { a, b };
    void *arg[2] = { mm, mm };

    mm_load(&vcpus[1], mm);
    world_be(0);
    sched_pause_at(0, pause, nth);
    sched_run(2, fn, arg);
    world_be(0);
}

/* A store is in the list of the cycle in which memory changed. */
static void store_or_commit_first(void)
{
    static const char *const at[] = { "lock", "unlock", "page_locked",
                                      "page_unlock" };
    unsigned int i, nth;

    for ( i = 0; i < ARRAY_SIZE(at); ++i )
        for ( nth = 1; nth <= 10; ++nth )
        {
            struct mm *mm = emulxen();

            run(store_0, at[i], nth, commit_0, mm);
            proc_cycle(mm, CDA_OP_commit, 0);
            world_end();

            mm = emulxen();
            hw_store(va_of(0, 0), next_stamp());
            run(commit_0, at[i], nth, store_1, mm);
            proc_cycle(mm, CDA_OP_commit, 0);
            world_end();
        }
}

/* The range that faulted goes, and another takes its place. */
static void register_anew(void *mm)
{
    CHECK(!proc_unregister(mm, 0), "unregister");
    proc_mode = CDA_MODE_EMULXEN;
    CHECK(proc_register(mm, 1, va_of(0, 0), 4, io_va(3), 4096) > 0, "id");
    proc_mode = CDA_MODE_PTXEN;
    hw_store(va_of(0, 0), next_stamp());   /* the kernel gives RW */
    CHECK(!proc_cycle(mm, CDA_OP_begin, 1), "begin");
}

static void store_in_old_range(void)
{
    struct mm *mm = emulxen();

    run(store_0, "page_lock", 1, register_anew, mm);
    CHECK(proc_cycle(mm, CDA_OP_commit, 1) == 1, "logged in the old range");
    truth_check();
    world_end();
}

const struct test_case emul_cases[] = {
    { "what is logged", what_is_logged },
    { "log of stores full", log_full },
    { "change before a store", changes },
    { "not the process's stores", whose },
    { "small log", small_log },
    { "unwritable log of stores", lost_log },
    { "number of logs of stores", number_of_logs },
    { "former ranges", former_ranges },
    { "store within commit", store_or_commit_first },
    { "store in an old range", store_in_old_range },
    { NULL, NULL },
};
