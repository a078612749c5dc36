/* SPDX-License-Identifier: GPL-2.0-only */
/* Setting up and tearing down.  See world.h. */
#include "world.h"
#include "hw.h"
#include "build/cda.h"

void world_be(unsigned int v)
{
    current_vcpu = &vcpus[v];
}

void world_start(void)
{
    unsigned int i;
    struct cda_ctl_limits l = {
        .size = sizeof(l), .domid = 1, .max_sessions = 8, .max_pages = 8192,
        .max_ranges = 16, .max_tokens = 8,
    };

    memset(vcpus, 0, sizeof(vcpus));
    for ( i = 0; i < NR_VCPUS; ++i )
    {
        vcpus[i].id = i;
        vcpus[i].domain = i == DOM0_VCPU ? &dom0 : &domu;
    }
    world_be(0);
    sched_rate = preempt_rate = alloc_fail_rate = alloc_fail_nth = 0;
    abandon_rate = dom0_copy_fails = copy_fail_rate = 0;
    domu.is_dying = domu.pv32 = false;
    hw_log_dirty(false);
    domu.pv = true;
    opt_cda = true;
    shim_initcall();
    guest_reset();
    CHECK(!ctl(CDA_CTL_set_limits, &l), "cannot set limits");
}

void world_end(void)
{
    unsigned int i;

    preempt_rate = alloc_fail_rate = alloc_fail_nth = sched_rate = 0;
    for ( i = 0; i < NR_VCPUS; ++i )
        mm_load(&vcpus[i], NULL);
    world_be(0);
    for ( i = 0; i < NR_MMS; ++i )
        if ( mms[i].live )
        {
            mm_exit(&mms[i]);
            proc_forget(&mms[i]);
        }
    truth_check();
    cda_domain_destroy(&domu);
    CHECK(!domu.arch.cda, "the domain is destroyed");
    rcu_drain();
    CHECK(!alloc_live, "%ld allocations leaked", alloc_live);
    /* Frame 0 does not exist; three are the model's own. */
    CHECK(free_frames == NR_FRAMES - 4, "%u frames are free", free_frames);
    mm_check_counts();
}

struct mm *world_process(void)
{
    struct mm *mm = mm_new();
    unsigned int c, a;

    if ( !mm )
        return NULL;
    for ( c = 0; c < NR_CHUNKS; ++c )
        for ( a = 0; a < NR_ACTIVE; ++a )
        {
            kern_map(mm, c, a, true);
            CHECK(!kern_fault(mm, va_of(c, active_slot[a]), true), "fault");
        }
    return mm;
}

struct mm *world_session(unsigned int v)
{
    static uint8_t token;
    struct mm *mm = world_process();

    CHECK(mm, "no process");
    world_be(v);
    mm_load(&vcpus[v], mm);
    token = token % 255 + 1;
    CHECK(!add_token(token, 0, 0), "no token");
    CHECK(!proc_attach(mm, token), "attach");
    return mm;
}

struct mm *world_range(unsigned int mode, unsigned int c, unsigned long pages)
{
    struct mm *mm;

    world_start();
    mm = world_session(0);
    proc_mode = mode;
    CHECK(!proc_register(mm, 0, va_of(c, 0), pages, io_va(2), 4096), "id");
    proc_mode = CDA_MODE_PTXEN;
    return mm;
}
