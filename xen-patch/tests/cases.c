/* SPDX-License-Identifier: GPL-2.0-only */
/* Directed cases, one vCPU at a time: what chance seldom composes. */
#include "world.h"
#include "hw.h"
#include "build/cda.h"

static unsigned long data_va(unsigned int c, unsigned int a)
{
    return va_of(c, active_slot[a]);
}

static struct mm *one_range(unsigned int c, unsigned long pages)
{
    struct mm *mm;

    world_start();
    mm = world_session(0);
    CHECK(!proc_register(mm, 0, va_of(c, 0), pages, io_va(2), 4096), "id");
    return mm;
}

static unsigned long *entry_at(struct mm *mm, unsigned long va)
{
    return walk_l1e(mm->l4, va);
}

static void exact_lists_with(unsigned int mode)
{
    struct mm *mm;
    unsigned int i, round;

    proc_mode = mode;
    mm = one_range(0, 4);
    proc_mode = CDA_MODE_PTXEN;

    CHECK(!proc_cycle(mm, CDA_OP_begin, 0), "begin");
    for ( round = 0; round < 16; ++round )
    {
        for ( i = 0; i < 4; ++i )
            if ( round >> i & 1 )
                hw_store(data_va(0, i), next_stamp());
        CHECK(proc_cycle(mm, CDA_OP_peek, 0) ==
              __builtin_popcount(round), "what was written so far");
        CHECK(proc_cycle(mm, CDA_OP_commit, 0) ==
              __builtin_popcount(round), "exactly what was written");
        for ( i = 0; i < 4; ++i )
            CHECK(proc_reported(mm, 0, i) == (round >> i & 1), "which");
    }
    hw_store(data_va(0, 2), next_stamp());
    CHECK(proc_cycle(mm, CDA_OP_end, 0) == 1, "end");
    hw_store(data_va(0, 3), next_stamp());
    CHECK(!proc_cycle(mm, CDA_OP_begin, 0), "begin again");
    CHECK(!proc_cycle(mm, CDA_OP_commit, 0), "what came in between is not");
    world_end();
}

static void exact_lists(void)
{
    exact_lists_with(CDA_MODE_PTXEN);
}

static void exact_lists_scan(void)
{
    exact_lists_with(CDA_MODE_SCANXEN);
}

static void exact_lists_auto(void)
{
    exact_lists_with(CDA_MODE_AUTOXEN);
}

static void exact_lists_emul(void)
{
    exact_lists_with(CDA_MODE_EMULXEN);
}

/* A page that is written in every cycle stops faulting; then it cools down. */
static void hot_page(void)
{
    struct mm *mm;
    struct cda_query q;
    unsigned long faults = 0;
    unsigned int i, clean;

    proc_mode = CDA_MODE_AUTOXEN;
    mm = one_range(0, 4);
    proc_mode = CDA_MODE_PTXEN;
    proc_cycle(mm, CDA_OP_begin, 0);
    for ( i = 0; i < 20; ++i )
    {
        if ( i == 4 )
            faults = hw_faults;
        hw_store(data_va(0, 1), next_stamp());
        CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 1, "reported");
    }
    CHECK(hw_faults == faults, "a hot page faults");
    CHECK(*entry_at(mm, data_va(0, 1)) & CDA_L1E_WATCH, "watched");
    CHECK(!(*entry_at(mm, data_va(0, 1)) & _PAGE_DIRTY), "D cleared");
    for ( clean = 0; *entry_at(mm, data_va(0, 1)) & CDA_L1E_WATCH; ++clean )
        CHECK(clean < 200 && !proc_cycle(mm, CDA_OP_commit, 0), "cools down");
    CHECK(clean > 10, "not at once");
    CHECK(!proc_query(mm, &q) && q.counters.heated == 1 &&
          q.counters.cooled == 1 && q.counters.watched > 10, "counted");
    hw_store(data_va(0, 1), next_stamp());
    CHECK(hw_faults == faults + 1, "cold again");
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 1, "reported");
    world_end();
}

/* Who stops watching gives D back, and the kernel the last word on RW. */
static void watched_given_back(void)
{
    struct mm *mm;
    unsigned long e;

    proc_mode = CDA_MODE_SCANXEN;
    mm = one_range(0, 4);
    proc_mode = CDA_MODE_PTXEN;
    proc_cycle(mm, CDA_OP_begin, 0);
    CHECK((*entry_at(mm, data_va(0, 1)) & (CDA_L1E_WATCH | _PAGE_DIRTY)) ==
          CDA_L1E_WATCH, "D is withheld");
    proc_unregister(mm, 0);
    e = *entry_at(mm, data_va(0, 1));
    CHECK((e & _PAGE_DIRTY) && !(e & (CDA_L1E_BITS | _PAGE_RW)),
          "%#lx is left", e);
    CHECK(!hw_store(data_va(0, 1), next_stamp()), "the kernel resolves it");
    world_end();
}

/* A token for one mode does not open another. */
static void mode_mask(void)
{
    struct mm *mm;

    world_start();
    token_modes = 1u << CDA_MODE_PTXEN;
    mm = world_session(0);
    token_modes = 0;
    proc_mode = CDA_MODE_AUTOXEN;
    CHECK(proc_register(mm, 0, va_of(0, 0), 4, io_va(2), 4096) == -EPERM,
          "a mode which the token does not allow");
    proc_mode = CDA_MODE_PTXEN;
    CHECK(proc_register(mm, 0, va_of(0, 0), 4, io_va(2), 4096) >= 0, "allowed");
    world_end();
}

static void lost_header(void)
{
    struct mm *mm = one_range(0, 4);

    proc_cycle(mm, CDA_OP_begin, 0);
    hw_store(data_va(0, 1), next_stamp());
    kern_protect(mm, IO_CHUNK, 2, false);
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == -EFAULT, "unwritable log");
    kern_protect(mm, IO_CHUNK, 2, true);
    kern_fault(mm, io_va(2), true);
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) & CDA_RESULT_LOST, "sticky");
    CHECK(!proc_cycle(mm, CDA_OP_commit, 0), "and over");
    world_end();
}

/* Header on a good page, entries on one that cannot be written. */
static void lost_entries(void)
{
    struct mm *mm;

    world_start();
    mm = world_session(0);
    proc_register(mm, 0, va_of(0, 0), 4, io_va(3) - 64, 128);
    proc_cycle(mm, CDA_OP_begin, 0);
    hw_store(data_va(0, 1), next_stamp());
    kern_protect(mm, IO_CHUNK, 3, false);
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) & CDA_RESULT_LOST, "lost");
    world_end();
}

/* The other way round. */
static void lost_header_only(void)
{
    struct mm *mm;

    world_start();
    mm = world_session(0);
    proc_register(mm, 0, va_of(0, 0), 4, io_va(3) - 64, 128);
    proc_cycle(mm, CDA_OP_begin, 0);
    hw_store(data_va(0, 1), next_stamp());
    kern_protect(mm, IO_CHUNK, 2, false);
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == -EFAULT, "unwritable header");
    kern_protect(mm, IO_CHUNK, 2, true);
    kern_fault(mm, io_va(2), true);
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) & CDA_RESULT_LOST, "sticky");
    world_end();
}

/* Detach, given up after its first chunk; begin; detach. */
static void detach_abandoned(void)
{
    struct mm *mm;

    world_start();
    mm = world_session(0);
    proc_register(mm, 0, data_va(0, 4), 7, io_va(2), 4096);
    proc_cycle(mm, CDA_OP_begin, 0);
    preempt_rate = abandon_rate = 1;
    CHECK(proc_detach(mm) == ABANDONED, "detach");
    preempt_rate = abandon_rate = 0;
    truth_check();
    proc_cycle(mm, CDA_OP_commit, 0);
    CHECK(!proc_detach(mm), "detach");
    CHECK(!(*entry_at(mm, data_va(0, 4)) & CDA_L1E_BITS) &&
          !(*entry_at(mm, data_va(1, 0)) & CDA_L1E_BITS), "left behind");
    world_end();
}

static void lost_abandoned(unsigned int next)
{
    struct mm *mm = one_range(0, 4);

    proc_register(mm, 1, va_of(1, 0), 4, io_va(3), 4096);
    proc_cycle(mm, CDA_OP_begin, ALL_RANGES);
    hw_store(data_va(0, 1), next_stamp());
    preempt_rate = abandon_rate = 1;
    CHECK(proc_cycle(mm, CDA_OP_commit, ALL_RANGES) == ABANDONED, "commit");
    preempt_rate = abandon_rate = 0;
    hw_store(data_va(0, 2), next_stamp());
    CHECK(proc_cycle(mm, CDA_OP_commit, next) & CDA_RESULT_LOST,
          "its list is nowhere");
    world_end();
}

static void lost_abandoned_all(void)
{
    lost_abandoned(ALL_RANGES);
}

static void lost_abandoned_then_one(void)
{
    lost_abandoned(0);
}

static void lost_abandoned_one(void)
{
    struct mm *mm;

    world_start();
    mm = world_session(0);
    proc_register(mm, 0, data_va(0, 4), 7, io_va(2), 4096);
    proc_cycle(mm, CDA_OP_begin, 0);
    hw_store(data_va(0, 5), next_stamp());
    preempt_rate = abandon_rate = 1;
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == ABANDONED, "commit");
    preempt_rate = abandon_rate = 0;
    hw_store(data_va(0, 6), next_stamp());
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) & CDA_RESULT_LOST, "lost");
    truth_check();
    world_end();
}

/* All ranges, interrupted just before the one whose operation was given up. */
static void lost_abandoned_then_all(void)
{
    struct mm *mm = one_range(0, 4);
    struct cda_log h;

    proc_register(mm, 1, data_va(1, 4), 7, io_va(3), 4096);
    proc_cycle(mm, CDA_OP_begin, ALL_RANGES);
    hw_store(data_va(0, 0), next_stamp());
    hw_store(data_va(1, 4), next_stamp());
    preempt_rate = abandon_rate = 1;
    CHECK(proc_cycle(mm, CDA_OP_commit, 1) == ABANDONED, "commit");
    abandon_rate = 0;
    hw_store(data_va(1, 4), next_stamp());
    proc_cycle(mm, CDA_OP_commit, ALL_RANGES);
    preempt_rate = 0;
    CHECK(!get_user(io_va(3), &h, sizeof(h)) && (h.flags & CDA_LOG_LOST),
          "half a list was inherited");
    world_end();
}

/* Two chunks, given up half-way: what was stripped must not be forgotten. */
static void unregister_abandoned(void)
{
    struct mm *mm;

    world_start();
    mm = world_session(0);
    proc_register(mm, 0, data_va(0, 4), 7, io_va(2), 4096);
    proc_cycle(mm, CDA_OP_begin, 0);
    preempt_rate = abandon_rate = 1;
    CHECK(proc_unregister(mm, 0) == ABANDONED, "unregister");
    preempt_rate = abandon_rate = 0;
    proc_cycle(mm, CDA_OP_commit, 0);
    truth_check();
    hw_store(data_va(0, 4), next_stamp());
    proc_cycle(mm, CDA_OP_commit, 0);
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 0, "tracked again");
    world_end();
}

static void unregister_takes_back(void)
{
    struct mm *mm = one_range(0, 4);
    struct cda_ctl_counters c = { .size = sizeof(c), .domid = 1 };
    unsigned int i;

    proc_cycle(mm, CDA_OP_begin, 0);
    hw_store(data_va(0, 0), next_stamp());
    CHECK(!proc_unregister(mm, 0), "unregister");
    for ( i = 0; i < 4; ++i )
        CHECK(!(*entry_at(mm, data_va(0, i)) & (CDA_L1E_BITS | _PAGE_RW)),
              "authority outlives its range");
    hw_store(data_va(0, 0), next_stamp());
    CHECK(!ctl(CDA_CTL_counters, &c) && c.counters.faults_fixed == 1, "one");
    world_end();
}

static void revoke_takes_back(void)
{
    struct mm *mm = one_range(0, 4);
    struct cda_ctl_revoke rv = { .size = sizeof(rv), .domid = 1 };
    struct cda_ctl_limits l = { .size = sizeof(l), .domid = 1 };
    unsigned long faults = 0;
    unsigned int i;

    proc_register(mm, 1, va_of(1, 0), 4, io_va(3), 4096);
    proc_cycle(mm, CDA_OP_begin, ALL_RANGES);
    for ( i = 0; i < 2; ++i )
        hw_store(data_va(i, 0), next_stamp());
    alloc_fail_rate = 1;          /* it must not depend on memory */
    CHECK(!ctl(CDA_CTL_revoke, &rv) && rv.sessions == 1, "revoke");
    alloc_fail_rate = 0;
    for ( i = 0; i < 8; ++i )
        CHECK(!(*entry_at(mm, data_va(i / 4, i % 4)) &
                (CDA_L1E_RO | _PAGE_RW)), "authority outlives revocation");
    CHECK(!ctl(CDA_CTL_get_limits, &l) && !l.used_pages, "pages");
    faults = hw_faults;
    hw_store(data_va(0, 0), next_stamp());
    CHECK(hw_faults > faults, "a TLB still holds what was taken back");
    truth_check();
    world_end();
}

static void refused_frames(void)
{
    static const char *const what[] = { "foreign", "device memory", "grant",
                                        "special page", "guest kernel's" };
    unsigned int i;

    for ( i = 0; i < ARRAY_SIZE(what); ++i )
    {
        struct mm *mm = one_range(0, 4);
        unsigned long *p = entry_at(mm, data_va(0, 1));
        struct page_info *pg = &frame_table[frame_of(*p)];

        if ( i < 2 )
            kern_map_foreign(mm, 0, 1, i);
        else if ( i == 2 )
            kern_grant(mm, 0, 1, true);
        else if ( i == 3 )
            pg->count_info |= PGC_extra;
        else
            set_pte(mm, 0, 1, *p | GUEST_KERNEL_BIT, true);
        CHECK(proc_cycle(mm, CDA_OP_begin, 0) == -EPERM, "%s", what[i]);
        CHECK((*p & _PAGE_RW) && !(*p & (CDA_L1E_RO | CDA_L1E_SEEN)),
              "%s: entry %#lx", what[i], *p);
        if ( i == 3 )
            pg->count_info &= ~PGC_extra;
        truth_check();
        world_end();
    }
}

/* B < A, both registered, the table moves from A to B. */
static void table_moved(void)
{
    struct mm *mm = one_range(1, 4);
    unsigned int i;

    proc_register(mm, 1, va_of(0, 0), 4, io_va(3), 4096);
    proc_cycle(mm, CDA_OP_begin, ALL_RANGES);
    kern_move_table(mm, 1, 0);
    CHECK(proc_cycle(mm, CDA_OP_commit, ALL_RANGES) == 8, "both");
    truth_check();
    for ( i = 0; i < 4; ++i )
        hw_store(data_va(0, i), next_stamp());
    truth_check();
    CHECK(proc_cycle(mm, CDA_OP_commit, 1) == 4, "moved pages are tracked");
    world_end();
}

/* There and back: where it came from must learn of it. */
static void table_there_and_back(void)
{
    struct mm *mm = one_range(0, 4);

    proc_register(mm, 1, va_of(1, 0), 4, io_va(3), 4096);
    proc_cycle(mm, CDA_OP_begin, ALL_RANGES);
    kern_move_table(mm, 0, 1);
    proc_cycle(mm, CDA_OP_commit, 1);
    hw_store(data_va(1, 0), next_stamp());
    kern_move_table(mm, 1, 0);
    truth_check();
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) > 0, "changed while it was away");
    world_end();
}

/* A granted entry of a table that is elsewhere now says nothing about here. */
static void stale_table_writable(void)
{
    struct mm *mm = one_range(0, 4);

    proc_cycle(mm, CDA_OP_begin, 0);
    hw_store(data_va(0, 0), next_stamp());
    kern_move_table(mm, 0, 1);
    kern_map_zero(mm, 0, 0);
    CHECK(!hw_store(data_va(0, 0), next_stamp()), "store");
    world_end();
}

static void read_only_way(void)
{
    struct mm *mm = one_range(0, 4);

    proc_cycle(mm, CDA_OP_begin, 0);
    kern_l2_readonly(mm, 0, true);
    CHECK(hw_store(data_va(0, 0), next_stamp()) == -EFAULT, "forwarded");
    kern_l2_readonly(mm, 0, false);
    truth_check();
    world_end();
}

/* Entries of tables that are none, not ours, or 2 MiB pages: hands off. */
static void not_a_table(void)
{
    unsigned int i;

    for ( i = 0; i < 3; ++i )
    {
        struct mm *mm = one_range(0, 4);
        unsigned long f = mm->l1[0], *l2e, was, d = frame_alloc();

        l2e = &table(mm->l2[0])[l2_table_offset(va_of(0, 0))];
        was = *l2e;
        memcpy(table(d), table(f), PAGE_SIZE);
        if ( i == 0 )
            *l2e = was | _PAGE_PSE;
        else if ( i == 1 )
            frame_table[f].owner = &hvm_dom;
        else
            *l2e = mkpte(d, was & 0xfff);
        CHECK(!proc_cycle(mm, CDA_OP_begin, 0), "begin");
        *l2e = was;
        frame_table[f].owner = &domu;
        CHECK(!(table(f)[0] & CDA_L1E_BITS) && !(table(d)[0] & CDA_L1E_BITS),
              "case %u: walked what is no L1 table of the domain", i);
        memset(table(d), 0, PAGE_SIZE);
        frame_drop(d);
        world_end();
    }
}

static void leftover_authority(void)
{
    struct mm *mm = one_range(0, 4);

    kern_protect(mm, 0, 0, false);
    *entry_at(mm, data_va(0, 0)) |= CDA_L1E_RO;
    proc_cycle(mm, CDA_OP_begin, 0);
    CHECK(hw_store(data_va(0, 0), 1) == -EFAULT, "forwarded");
    world_end();

    mm = one_range(0, 4);
    *entry_at(mm, data_va(0, 0)) |= CDA_L1E_WATCH;
    proc_cycle(mm, CDA_OP_begin, 0);
    truth_check();
    hw_store(data_va(0, 0), next_stamp());
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 1, "reported");
    world_end();
}

/* KSM leaves alone what is read-only and clean. */
static void ksm_clean(void)
{
    struct mm *mm = one_range(0, 4), *victim = world_process();

    hw_store(data_va(0, 0), 7);
    kern_gup_write(victim, 2, 2, 7);
    kern_make_clean(mm, 0, 0);
    proc_cycle(mm, CDA_OP_begin, 0);
    CHECK(kern_ksm(mm, 0, 0, victim, 2, 2), "merged");
    hw_store(data_va(0, 0), 666);
    CHECK(content(victim, data_va(2, 2)) == 7, "the victim's page changed");
    truth_check();
    world_end();
}

static void log_dirty_mode_with(unsigned int mode)
{
    struct mm *mm = world_range(mode, 0, 4);
    struct cda_ctl_counters c = { .size = sizeof(c), .domid = 1 };

    proc_cycle(mm, CDA_OP_begin, 0);
    hw_log_dirty(true);
    hw_store(data_va(0, 0), next_stamp());
    CHECK(!ctl(CDA_CTL_counters, &c) && !c.counters.faults_fixed &&
          !c.counters.emulated, "granted behind log-dirty mode's back");
    hw_log_dirty(false);
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 1, "and reported");
    world_end();
}

static void log_dirty_mode(void)
{
    log_dirty_mode_with(CDA_MODE_PTXEN);
    log_dirty_mode_with(CDA_MODE_EMULXEN);
}

/* What is taken back there must be so in what the CPU walks, too. */
static void take_back_in_log_dirty_mode(void)
{
    struct cda_ctl_revoke rv = { .size = sizeof(rv), .domid = 1 };
    unsigned int how;

    for ( how = 0; how < 3; ++how )
    {
        struct mm *mm = world_range(CDA_MODE_PTXEN, 0, 4), *child;

        proc_cycle(mm, CDA_OP_begin, 0);
        hw_store(data_va(0, 0), next_stamp());
        hw_log_dirty(true);
        hw_store(data_va(0, 0), next_stamp());
        switch ( how )
        {
        case 0: CHECK(!proc_unregister(mm, 0), "unregister"); break;
        case 1: CHECK(!proc_detach(mm), "detach"); break;
        case 2: CHECK(!ctl(CDA_CTL_revoke, &rv), "revoke"); break;
        }
        child = mm_fork(mm);
        hw_store(data_va(0, 0), 666);
        CHECK(content(child, data_va(0, 0)) != 666, "the child's page changed");
        truth_check();
        world_end();
    }
}

static void forward_only_with(unsigned int mode)
{
    struct cda_ctl_limits l = { .size = sizeof(l), .domid = 1 };
    struct cda_ctl_counters c = { .size = sizeof(c), .domid = 1 };
    struct mm *mm;

    world_start();
    ctl(CDA_CTL_get_limits, &l);
    l.flags = CDA_LIMIT_FORWARD;
    ctl(CDA_CTL_set_limits, &l);
    mm = world_session(0);
    proc_mode = mode;
    proc_register(mm, 0, va_of(0, 0), 4, io_va(2), 4096);
    proc_mode = CDA_MODE_PTXEN;
    proc_cycle(mm, CDA_OP_begin, 0);
    hw_store(data_va(0, 0), next_stamp());
    CHECK(!ctl(CDA_CTL_counters, &c) && !c.counters.faults_fixed &&
          !c.counters.emulated, "granted");
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 1, "and reported");
    world_end();
}

static void forward_only(void)
{
    forward_only_with(CDA_MODE_PTXEN);
    forward_only_with(CDA_MODE_EMULXEN);
}

/* The frame became a segment descriptor page while RW was withheld. */
static void typed_away_with(unsigned int mode)
{
    struct mm *mm = world_range(mode, 0, 4);
    unsigned long f = frame_of(*entry_at(mm, data_va(0, 0)));

    put_page_type(&frame_table[f]);
    dmap_rw[f] = false;
    proc_cycle(mm, CDA_OP_begin, 0);
    CHECK(get_page_type(&frame_table[f], PGT_seg_desc_page), "type");
    mm->page[0][0].vma_w = false;  /* the kernel refuses as well */
    CHECK(hw_store(data_va(0, 0), 1) == -EFAULT, "a descriptor was written");
    put_page_type(&frame_table[f]);
    CHECK(get_page_type(&frame_table[f], PGT_writable_page), "type");
    dmap_rw[f] = true;
    world_end();
}

static void typed_away(void)
{
    typed_away_with(CDA_MODE_PTXEN);
    typed_away_with(CDA_MODE_EMULXEN);
}

/* Bits of Xen's in what a guest writes: gone. */
static void forged_bits(void)
{
    struct mm *mm = one_range(0, 4);
    unsigned long *p = entry_at(mm, data_va(0, 0)), bit;

    for ( bit = CDA_L1E_RO; bit <= CDA_L1E_WATCH; bit <<= 1 )
    {
        set_pte(mm, 0, 0, *p | bit, true);
        CHECK(!(*p & CDA_L1E_BITS), "bit %#lx is kept", bit);
    }
    world_end();
}

/* What is not mapped cannot be protected: it is looked at each time. */
static void unmapped_page(void)
{
    struct mm *mm = one_range(0, 4);

    proc_cycle(mm, CDA_OP_begin, 0);
    kern_unmap(mm, 0, 1);
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 1, "unmapped");
    truth_check();
    kern_map(mm, 0, 1, true);
    hw_store(data_va(0, 1), next_stamp());
    CHECK(proc_cycle(mm, CDA_OP_commit, 0) == 1, "mapped and written");
    CHECK(!proc_cycle(mm, CDA_OP_commit, 0), "tracked again");
    world_end();
}

/* Frames that are not ours to judge, mapped within a cycle. */
static void foreign_later(void)
{
    unsigned int i;

    for ( i = 0; i < 3; ++i )
    {
        struct mm *mm = one_range(0, 4);

        proc_cycle(mm, CDA_OP_begin, 0);
        if ( i < 2 )
            kern_map_foreign(mm, 0, 1, i);
        else
            kern_grant(mm, 0, 1, true);
        CHECK(!proc_unregister(mm, 0), "unregister");
        CHECK(*entry_at(mm, data_va(0, 1)) & _PAGE_RW, "taken away");
        truth_check();
        world_end();
    }
}

/* Two ranges in one table: an update concerns one of them. */
static void neighbours(void)
{
    struct mm *mm = one_range(0, 4);

    proc_register(mm, 1, data_va(0, 4), 3, io_va(3), 4096);
    proc_cycle(mm, CDA_OP_begin, ALL_RANGES);
    kern_age(mm, 0, 5);
    CHECK(!proc_cycle(mm, CDA_OP_commit, 0), "not this one");
    CHECK(proc_cycle(mm, CDA_OP_commit, 1) == 1, "but that");
    world_end();
}

/* A fault as the CPU would report it, by chance or by malice. */
static bool fault_at(unsigned long va, unsigned int ec, uint64_t eflags)
{
    struct cpu_user_regs regs = { .error_code = ec, .eflags = eflags,
                                  .rip = 0x1000, .cs = 0x33 };

    return cda_fixup_fault(va, &regs);
}

/* Something where the range is, in an address space that is being made. */
static void map_something(struct mm *mm)
{
    frame_get(zero_frame);
    table(mm->l1[0])[0] = mkpte(zero_frame, _PAGE_PRESENT | _PAGE_USER);
}

/* Not present, and all bits of ours: a swap entry may look like that. */
static void swapped_out(void)
{
    struct mm *mm = one_range(0, 4);
    unsigned long swap, e = *entry_at(mm, data_va(0, 1));

    proc_cycle(mm, CDA_OP_begin, 0);
    for ( swap = 0; swap <= _PAGE_RW; swap += _PAGE_RW )
    {
        unsigned long was = (e & PADDR_MASK & PAGE_MASK) | CDA_L1E_TRACKED |
                            swap;

        if ( !swap )
            kern_unmap(mm, 0, 0);
        set_pte(mm, 0, 0, was, false);
        CHECK(!fault_at(data_va(0, 0), 7, X86_EFLAGS_IF), "granted");
        mm_before_pin = map_something;
        world_process();          /* takes back, as for a fork */
        CHECK(*entry_at(mm, data_va(0, 0)) == was, "%#lx became %#lx", was,
              *entry_at(mm, data_va(0, 0)));
    }
    set_pte(mm, 0, 0, 0, false);
    world_end();
}

static void odd_faults(void)
{
    struct mm *mm = one_range(0, 4);
    struct cda_query q;

    proc_cycle(mm, CDA_OP_begin, 0);
    CHECK(!fault_at(data_va(0, 0), 3, 0), "Xen with interrupts disabled");
    CHECK(fault_at(data_va(0, 0), 7, X86_EFLAGS_IF), "granted");
    CHECK(fault_at(data_va(0, 0), 7, X86_EFLAGS_IF), "a vCPU was first");
    CHECK(!proc_query(mm, &q) && q.counters.faults_fixed == 1 &&
          q.counters.faults_spurious == 1, "counted");
    truth_check();
    kern_recreate_table(mm, 0);
    CHECK(!fault_at(data_va(0, 0), 7, X86_EFLAGS_IF), "nothing is bound");
    world_end();
}

/* With FRED there is no gate to open. */
static void fred(void)
{
    world_start();
    shim_fred = true;
    shim_initcall();
    CHECK(!opt_cda, "nobody could get in");
    shim_fred = false;
    opt_cda = true;
    world_end();
}

static void token_expires(void)
{
    struct cda_ctl_token t = { .size = sizeof(t), .domid = 1, .token = { 3 },
                               .tag = 1, .lifetime_ms = 1 };
    struct mm *mm;
    unsigned int i;

    world_start();
    mm = world_process();
    mm_load(&vcpus[0], mm);
    memset(t.token, 3, sizeof(t.token));
    CHECK(!ctl(CDA_CTL_add_token, &t), "token");
    for ( i = 0; i < 1100; ++i )
        NOW();
    CHECK(proc_attach(mm, 3) == -EACCES, "expired");
    world_end();
}

static void tag_limit(void)
{
    struct cda_ctl_token t = { .size = sizeof(t), .domid = 1, .tag = 1,
                               .lifetime_ms = 100000, .max_sessions = 1 };
    unsigned int i;

    world_start();
    for ( i = 0; i < 2; ++i )
    {
        memset(t.token, 3 + i, sizeof(t.token));
        CHECK(!ctl(CDA_CTL_add_token, &t), "token");
        mm_load(&vcpus[0], world_process());
        CHECK(proc_attach(vcpus[0].mm, 3 + i) == (i ? -ENOSPC : 0), "tag");
    }
    world_end();
}

/* Fork child, exec, reuse of the root's frame: no session. */
static void identity(void)
{
    struct mm *mm = one_range(0, 4), *child;
    uint64_t cookie = mm->proc.cookie;

    proc_cycle(mm, CDA_OP_begin, 0);
    child = mm_fork(mm);
    mm_load(&vcpus[0], child);
    CHECK(gate(CDA_OP_commit, cookie, 0, 0, 0, 0) == -ENOENT, "fork child");
    mm_exit(mm);
    proc_forget(mm);
    mm = world_process();         /* takes the frames just freed */
    mm_load(&vcpus[0], mm);
    CHECK(gate(CDA_OP_commit, cookie, 0, 0, 0, 0) == -ENOENT, "reused root");
    world_end();
}

const struct test_case cases[] = {
    { "exact lists", exact_lists },
    { "exact lists, Scanxen", exact_lists_scan },
    { "exact lists, Autoxen", exact_lists_auto },
    { "exact lists, Emulxen", exact_lists_emul },
    { "hot page", hot_page },
    { "watched pages given back", watched_given_back },
    { "mode mask", mode_mask },
    { "unwritable header", lost_header },
    { "unwritable entries", lost_entries },
    { "unwritable header only", lost_header_only },
    { "abandoned detach", detach_abandoned },
    { "abandoned on all ranges", lost_abandoned_all },
    { "abandoned on all, then one", lost_abandoned_then_one },
    { "abandoned on one, then all", lost_abandoned_then_all },
    { "abandoned on one range", lost_abandoned_one },
    { "abandoned unregister", unregister_abandoned },
    { "unregister takes back", unregister_takes_back },
    { "revoke takes back", revoke_takes_back },
    { "refused frames", refused_frames },
    { "table moved down", table_moved },
    { "table there and back", table_there_and_back },
    { "granted in a stale table", stale_table_writable },
    { "read-only L2 entry", read_only_way },
    { "no L1 table", not_a_table },
    { "leftover authority", leftover_authority },
    { "KSM and a clean page", ksm_clean },
    { "log-dirty mode", log_dirty_mode },
    { "take back in log-dirty mode", take_back_in_log_dirty_mode },
    { "forward only", forward_only },
    { "frame of another type", typed_away },
    { "forged bits", forged_bits },
    { "unmapped page", unmapped_page },
    { "neighbours", neighbours },
    { "foreign frames later", foreign_later },
    { "swap entries", swapped_out },
    { "odd faults", odd_faults },
    { "no gate with FRED", fred },
    { "token expires", token_expires },
    { "sessions of one tag", tag_limit },
    { "identity", identity },
    { NULL, NULL },
};
