/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Random life: rounds in which two guest vCPUs and Dom0 do a few operations
 * each, interleaved anywhere; after each round everything is checked.
 */
#include "world.h"
#include "hw.h"
#include "build/cda.h"

static uint8_t next_token;

struct spot { unsigned int c, a; };

static struct spot any_spot(void)
{
    /* The last chunk, with logs and arguments, more rarely. */
    return (struct spot){ one_in(24) ? IO_CHUNK : rnd(DATA_CHUNKS),
                          rnd(NR_ACTIVE) };
}

static struct mm *any_mm(void)
{
    struct mm *mm = &mms[rnd(NR_MMS)];

    return mm->live ? mm : current->mm;
}

static uint64_t any_value(void)
{
    return one_in(4) ? 7 : next_stamp();
}

static void store(void)
{
    struct spot s = any_spot();
    unsigned long va = va_of(s.c, active_slot[s.a]);

    if ( s.c != IO_CHUNK )
        hw_store(va, any_value());
}

static void log_of(unsigned int r, unsigned long *va, unsigned long *bytes)
{
    static const unsigned int slot[NR_RANGES] = { 2, 3, 509, 511 };

    *va = io_va(slot[r]);
    *bytes = r == 2 ? 2 * PAGE_SIZE : PAGE_SIZE;
    if ( one_in(6) )
        *bytes = sizeof(struct cda_log) + 8 * rnd(6);
}

static void do_register(struct mm *mm)
{
    unsigned int r = rnd(NR_RANGES), c = rnd(DATA_CHUNKS);
    unsigned long va, bytes, start = va_of(c, 0), pages = 4;

    static const uint8_t modes[] = { CDA_MODE_PTXEN, CDA_MODE_SCANXEN,
                                     CDA_MODE_AUTOXEN, CDA_MODE_EMULXEN };

    log_of(r, &va, &bytes);
    proc_mode = modes[rnd(ARRAY_SIZE(modes))];
    switch ( rnd(7) )
    {
    case 0:
        start = va_of(c, 509);
        pages = 3;
        break;
    case 1: case 2:
        start = va_of(c, 509);
        pages = c + 1 < DATA_CHUNKS ? 7 : 3;
        break;
    case 3:
        pages = 512;
        break;
    case 4:
        start = va_of(0, 0);
        pages = 512 * DATA_CHUNKS;
        break;
    case 5:
        start = va_of(c, active_slot[rnd(4)]);
        pages = 1 + rnd(3);
        break;
    }
    if ( !mm->proc.range[r].used )
        proc_register(mm, r, start, pages, va, bytes);
}

static void do_attach(struct mm *mm)
{
    if ( next_token )
        proc_attach(mm, next_token);
    else
        proc_attach(mm, 1 + rnd(255));
}

static void cycle(struct mm *mm)
{
    static const uint8_t ops[] = { CDA_OP_begin, CDA_OP_begin, CDA_OP_commit,
                                   CDA_OP_commit, CDA_OP_commit, CDA_OP_end,
                                   CDA_OP_peek };
    unsigned int op = ops[rnd(ARRAY_SIZE(ops))];
    unsigned int r = one_in(4) ? ALL_RANGES : rnd(NR_RANGES), i;

    for ( i = 0; r != ALL_RANGES && i < NR_RANGES &&
                 !mm->proc.range[r].used; ++i )
        r = (r + 1) % NR_RANGES;
    /* What a program does: begin if nothing is open. */
    if ( r != ALL_RANGES && !one_in(8) )
        op = !mm->proc.range[r].based ? CDA_OP_begin
             : op == CDA_OP_begin ? CDA_OP_commit : op;
    proc_cycle(mm, op, r);
}

static uint64_t any_argument(struct mm *mm)
{
    struct spot s = any_spot();

    switch ( rnd(10) )
    {
    case 0: return rnd64();
    case 1: return ~0ULL;
    case 2: return 0;
    case 3: return rnd(8);
    case 4: return mm->proc.cookie;
    case 5: return (1UL << 47) - rnd(128);
    case 6: return 0xffff880000000000ULL + rnd(4096);
    case 7: return va_of(s.c, active_slot[s.a]) + rnd(4096);
    case 8: return va_of(rnd(NR_CHUNKS), rnd(512)) - 8 * rnd(8);
    }
    return io_va(current->id);
}

/* P5: whatever a hostile process may put into registers and structures. */
static void garbage(struct mm *mm)
{
    static const uint8_t sizes[] = { sizeof(struct cda_attach),
                                     sizeof(struct cda_register),
                                     sizeof(struct cda_query) };
    uint64_t words[sizeof(struct cda_query) / 8], b;
    unsigned int i, op = rnd(12);
    long rc;

    for ( i = 0; i < ARRAY_SIZE(words); ++i )
        words[i] = one_in(3) ? any_argument(mm) : 0;
    if ( !one_in(4) )
        ((uint32_t *)words)[0] = sizes[rnd(3)];
    if ( !one_in(4) )
        ((uint32_t *)words)[1] = rnd(3);
    put_user(io_va(current->id), words, sizeof(words));

    b = any_argument(mm);
    /* What would change ranges behind the model's back goes elsewhere. */
    if ( op == CDA_OP_detach || op == CDA_OP_unregister ||
         (op >= CDA_OP_begin && op <= CDA_OP_peek) )
        b |= 1ULL << 63 >> rnd(40) | 0x100000;
    if ( op == CDA_OP_attach && !mm->proc.attached )
        return;
    rc = gate(one_in(16) ? rnd64() : op,
              one_in(2) ? mm->proc.cookie : any_argument(mm), b,
              one_in(8) ? any_argument(mm) : 0, one_in(16) ? rnd64() : 0,
              one_in(16) ? rnd64() : 0);
    if ( rc >= 0 && op == CDA_OP_register )
        gate(CDA_OP_unregister, mm->proc.cookie, rc, 0, 0, 0);
}

static void process_op(struct mm *mm)
{
    unsigned int n;

    if ( (!mm->proc.attached || mm->proc.revoked) && one_in(3) )
    {
        if ( mm->proc.revoked )
            proc_detach(mm);
        do_attach(mm);
        return;
    }
    switch ( rnd(40) )
    {
    case 0: case 1:
        do_register(mm);
        break;
    case 2:
        if ( one_in(3) )
            proc_unregister(mm, rnd(NR_RANGES));
        break;
    case 3:
        if ( one_in(8) )
            proc_detach(mm);
        break;
    case 4:
        do_attach(mm);
        break;
    case 5:
        garbage(mm);
        break;
    case 6:
    {
        struct cda_query q;

        if ( mm->proc.attached )
            proc_query(mm, &q);
        break;
    }
    case 7: case 8: case 9: case 10: case 11: case 12: case 13: case 14:
    case 15: case 16:
        cycle(mm);
        break;
    default:
        for ( n = rnd(4); n; --n )
            store();
        store();
        break;
    }
}

/* What the kernel does to @mm, in the context of any process. */
static void kernel_op_on(struct mm *mm, struct mm *other)
{
    struct spot s = any_spot(), t = any_spot();

    unsigned int what = rnd(20);

    if ( free_frames < 200 )
        return;
    trace("cpu%u mm%td kernel %u at %u/%u, %u/%u\n", current->id, mm - mms,
          what, s.c, active_slot[s.a], t.c, active_slot[t.a]);
    switch ( what )
    {
    case 0:
        /* Lists that are being written must not get lost without a trace. */
        if ( s.c != IO_CHUNK )
            kern_unmap(mm, s.c, s.a);
        break;
    case 1:
        if ( s.c == IO_CHUNK )
            break;
        kern_map(mm, s.c, s.a, !one_in(4));
        kern_fault(mm, va_of(s.c, active_slot[s.a]), false);
        break;
    case 2: case 3:
        kern_protect(mm, s.c, s.a, rnd(2));
        break;
    case 4:
        kern_make_clean(mm, s.c, s.a);
        break;
    case 5: case 6:
        kern_migrate(mm, s.c, s.a);
        break;
    case 7:
        kern_age(mm, s.c, s.a);
        break;
    case 8: case 9:
        if ( s.c != IO_CHUNK )
            kern_gup_write(mm, s.c, s.a, any_value());
        break;
    case 10:
        if ( s.c != IO_CHUNK )
            kern_map_zero(mm, s.c, s.a);
        break;
    case 11:
        if ( s.c != IO_CHUNK && one_in(3) )
            kern_map_foreign(mm, s.c, s.a, rnd(2));
        break;
    case 12:
        if ( s.c != IO_CHUNK )
            kern_grant(mm, s.c, s.a, rnd(2));
        break;
    case 13: case 14:
        if ( s.c != IO_CHUNK && t.c != IO_CHUNK )
            kern_ksm(mm, s.c, s.a, other, t.c, t.a);
        break;
    case 15: case 16:
        if ( s.c != IO_CHUNK && t.c != IO_CHUNK )
            kern_move_table(mm, s.c, t.c);
        break;
    case 17:
        if ( s.c != IO_CHUNK )
            kern_recreate_table(mm, s.c);
        break;
    case 18:
        if ( s.c != IO_CHUNK && one_in(3) )
        {
            kern_l2_readonly(mm, s.c, true);
            store();
            kern_l2_readonly(mm, s.c, false);
        }
        break;
    case 19:
        if ( s.c != IO_CHUNK && one_in(2) )
            kern_fill(mm, s.c);
        break;
    }
}

static void kernel_op(struct mm *mm)
{
    struct mm *other = any_mm();

    /* Neither exits meanwhile. */
    mm->users++;
    other->users++;
    kernel_op_on(mm, other);
    other->users--;
    mm->users--;
}

static unsigned int budget[NR_VCPUS];

static void guest_task(void *arg)
{
    unsigned int n;

    for ( n = budget[current->id]; n; --n )
    {
        struct mm *mm = current->mm;

        if ( !mm )
            break;
        if ( one_in(12) && mms[0].live + mms[1].live + mms[2].live +
                           mms[3].live < NR_MMS )
            one_in(4) ? mm_new() : mm_fork(mm);
        else if ( one_in(40) )
        {
            mutex_lock(&mm->lock);
            mm->dontfork[rnd(DATA_CHUNKS)] = one_in(2);
            mutex_unlock(&mm->lock);
        }
        else if ( one_in(5) )
            kernel_op(any_mm());
        else if ( one_in(24) )
        {
            struct spot s = any_spot();

            if ( s.c != IO_CHUNK )
                hw_xen_store(va_of(s.c, active_slot[s.a]), any_value());
        }
        else
            process_op(mm);
    }
}

static void dom0_task(void *arg)
{
    struct cda_ctl_revoke rv = { .size = sizeof(rv), .domid = 1 };
    struct cda_ctl_session list[8];
    struct cda_ctl_list l = { .size = sizeof(l), .domid = 1,
                              .buffer = (uint64_t)list, .capacity = rnd(9) };
    struct cda_ctl_counters cnt = { .size = sizeof(cnt), .domid = 1 };
    struct cda_ctl_limits lim = { .size = sizeof(lim), .domid = 1 };
    struct mm *mm;

    if ( one_in(40) )
        dom0_copy_fails = 1 + rnd(3);
    switch ( rnd(6) )
    {
    case 0:
        if ( one_in(3) )
            rv.session = 1 + rnd(40);
        else if ( one_in(2) )
            rv.tag = 42 + rnd(2);
        ctl(CDA_CTL_revoke, &rv);
        break;
    case 1:
        ctl(CDA_CTL_list, &l);
        break;
    case 2:
        ctl(CDA_CTL_counters, &cnt);
        break;
    case 3:
        if ( !ctl(CDA_CTL_get_limits, &lim) )
        {
            lim.flags = one_in(4) ? CDA_LIMIT_FORWARD : 0;
            lim.max_sessions = 1 + rnd(8);
            lim.max_pages = one_in(4) ? rnd(3000) : 8192;
            ctl(CDA_CTL_set_limits, &lim);
        }
        break;
    case 4:
        mm = &mms[rnd(NR_MMS)];   /* a process that runs nowhere exits */
        if ( mm->live && !mm->users && !mm->lock.held )
        {
            /* On a guest vCPU in truth; which one does not matter. */
            current->domain = &domu;
            mm_exit(mm);
            proc_forget(mm);
            current->domain = &dom0;
        }
        break;
    }
    dom0_copy_fails = 0;
}

/* One thread attaches; another uses the cookie as soon as it reads it. */
static void attach_task(void *arg)
{
    struct mm *mm = current->mm;

    if ( mm->proc.attached )
        proc_detach(mm);
    do_attach(mm);
}

static void eager_task(void *arg)
{
    unsigned int n;

    for ( n = 0; n < 100; ++n )
    {
        proc_eager(current->mm);
        sched_point();
    }
}

static void attach_round(void)
{
    static task_fn *const two[] = { attach_task, eager_task };
    void *args[2] = { NULL };
    struct mm *mm = vcpus[0].mm ?: vcpus[1].mm;

    mm_load(&vcpus[0], mm);
    mm_load(&vcpus[1], mm);
    sched_rate = 1 + rnd(4);
    copy_fail_rate = one_in(2) ? 24 : 0;
    sched_run(2, two, args);
}

static void switch_tasks(void)
{
    unsigned int v;

    for ( v = 0; v < 2; ++v )
    {
        struct mm *mm = &mms[rnd(NR_MMS)];

        world_be(v);
        if ( mm->live && (!vcpus[v].mm || one_in(6)) )
            mm_load(&vcpus[v], mm);
        if ( !vcpus[v].mm )
            mm_load(&vcpus[v], vcpus[!v].mm);
    }
    world_be(0);
    for ( v = 0; v < NR_MMS; ++v )
        if ( mms[v].live && !mms[v].users && one_in(12) )
        {
            mm_exit(&mms[v]);
            proc_forget(&mms[v]);
        }
    if ( !vcpus[0].mm && !vcpus[1].mm )
        mm_load(&vcpus[0], world_process());
}

void fuzz_world(unsigned int rounds)
{
    static const uint8_t rates[] = { 0, 2, 4, 10, 30 };
    static task_fn *const two[] = { guest_task, guest_task, NULL };
    static task_fn *const three[] = { guest_task, guest_task, dom0_task };
    void *args[3] = { NULL };
    unsigned int n;

    world_start();
    mm_load(&vcpus[0], world_process());
    world_process();

    for ( n = 0; n < rounds && rnd_more(); ++n )
    {
        switch_tasks();
        if ( one_in(2) )
        {
            next_token = 1 + rnd(255);
            add_token(next_token, one_in(3) ? 1 + rnd(4) : 0,
                      one_in(4) ? rnd(3000) : 0);
        }
        sched_rate = rates[rnd(ARRAY_SIZE(rates))];
        preempt_rate = rates[rnd(4)];
        alloc_fail_rate = one_in(8) ? 4 : 0;
        abandon_rate = one_in(6) ? 8 : 0;
        copy_fail_rate = one_in(8) ? 24 : 0;
        hw_log_dirty(one_in(50));
        budget[0] = 1 + rnd(6);
        budget[1] = one_in(3) ? 0 : 1 + rnd(6);
        if ( one_in(12) )
            attach_round();
        else
            sched_run(3, one_in(4) ? three : two, args);
        sched_rate = preempt_rate = alloc_fail_rate = abandon_rate = 0;
        copy_fail_rate = 0;
        hw_log_dirty(false);
        world_be(0);
        truth_check();
    }
    world_end();
}
