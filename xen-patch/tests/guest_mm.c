/* SPDX-License-Identifier: GPL-2.0-only */
/* Address spaces of the model guest: new, fork, exit; and the ground truth. */
#include "guest.h"
#include "hw.h"
#include "build/cda.h"

#define TBL (_PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED)

void guest_make_table(unsigned long f, unsigned int level);
void guest_free_table(unsigned long f);
void guest_forget_table(struct mm *mm, unsigned int c);

/* A skeleton: every table present, nothing mapped, nothing pinned. */
static struct mm *skeleton(void)
{
    struct mm *mm = NULL;
    unsigned int i;

    for ( i = 0; i < NR_MMS; ++i )
        if ( !mms[i].live && !mms[i].lock.held )
            mm = &mms[i];
    if ( !mm || free_frames < 160 )
        return NULL;
    memset(mm, 0, sizeof(*mm));
    mm->lock.held = true;
    mm->kernel_l4 = frame_alloc();
    mm->l4 = frame_alloc();
    mm->l3 = frame_alloc();
    mm->l2[0] = frame_alloc();
    mm->l2[1] = frame_alloc();
    table(mm->l4)[0] = table(mm->kernel_l4)[0] = mkpte(mm->l3, TBL);
    table(mm->l3)[0] = mkpte(mm->l2[0], TBL);
    table(mm->l3)[1] = mkpte(mm->l2[1], TBL);
    for ( i = 0; i < NR_CHUNKS; ++i )
    {
        mm->l1[i] = frame_alloc();
        table(mm->l2[va_of(i, 0) >> 30])[l2_table_offset(va_of(i, 0))] =
            mkpte(mm->l1[i], TBL);
    }
    return mm;
}

void (*mm_before_pin)(struct mm *mm);

/* xen_pgd_pin(): read-only for the kernel, L1s pinned, then the roots. */
static void pin(struct mm *mm)
{
    void (*before)(struct mm *) = mm_before_pin;
    unsigned int i;

    mm_before_pin = NULL;
    if ( before )
        before(mm);
    for ( i = 0; i < NR_CHUNKS; ++i )
        guest_make_table(mm->l1[i], 1);
    guest_make_table(mm->l2[0], 2);
    guest_make_table(mm->l2[1], 2);
    guest_make_table(mm->l3, 3);
    guest_make_table(mm->kernel_l4, 4);
    guest_make_table(mm->l4, 4);
    for ( i = 0; i < 2; ++i )
        while ( xen_pin(i ? mm->l4 : mm->kernel_l4, 4) == -ERESTART )
            if ( sched_active() )
                sched_point();
}

struct mm *mm_new(void)
{
    struct mm *mm = skeleton();

    if ( !mm )
        return NULL;
    pin(mm);
    mm->live = true;
    mm->lock.held = false;
    return mm;
}

struct mm *mm_fork(struct mm *parent)
{
    struct mm *child;
    unsigned int c, slot, a;
    unsigned long e, *p;

    mutex_lock(&parent->lock);
    child = skeleton();
    if ( !child )
    {
        mutex_unlock(&parent->lock);
        return NULL;
    }

    memcpy(child->page, parent->page, sizeof(child->page));
    memcpy(child->filled, parent->filled, sizeof(child->filled));
    /* What Xen writes to is kept out of forks, as the library does. */
    for ( c = 0; c < NR_CHUNKS; ++c )
        if ( c == IO_CHUNK || parent->dontfork[c] )
        {
            memset(child->page[c], 0, sizeof(child->page[c]));
            child->filled[c] = false;
        }

    for ( c = 0; c < DATA_CHUNKS; ++c )
        for ( slot = 0; slot < 512; ++slot )
        {
            p = pte_of(parent, c, slot);
            e = p ? *p : 0;
            if ( !(e & _PAGE_PRESENT) || parent->dontfork[c] )
                continue;
            if ( find_page(va_of(c, slot), &c, &a) &&
                 parent->page[c][a].foreign )
            {
                memset(&child->page[c][a], 0, sizeof(child->page[c][a]));
                continue;
            }
            sched_at("copy_pte");
            /* copy_present_pte() */
            if ( e & _PAGE_RW )
            {
                e = *p & ~(unsigned long)_PAGE_RW;
                set_pte(parent, c, slot, e, true);
            }
            frame_get(frame_of(e));
            table(child->l1[c])[slot] = e;
        }

    sched_at("dup_mmap");
    pin(child);
    flush_tlb_mask(NULL);         /* flush_tlb_mm() */

    /* From now on the two differ by what each writes itself. */
    for ( c = 0; c < NR_CHUNKS; ++c )
        for ( a = 0; a < NR_ACTIVE; ++a )
        {
            uint64_t now = content(child, va_of(c, active_slot[a]));

            if ( now != ABSENT )
                child->page[c][a].expect = now;
        }
    child->live = true;
    child->lock.held = false;
    sched_at("forked");
    mutex_unlock(&parent->lock);
    return child;
}

void mm_exit(struct mm *mm)
{
    unsigned int i;

    CHECK(!mm->users, "model guest: exits while it runs");
    mutex_lock(&mm->lock);
    mm->live = false;
    xen_unpin(mm->l4);            /* xen_exit_mmap() comes first */
    xen_unpin(mm->kernel_l4);
    for ( i = 0; i < NR_CHUNKS; ++i )
        guest_forget_table(mm, i);
    guest_free_table(mm->l2[0]);
    guest_free_table(mm->l2[1]);
    guest_free_table(mm->l3);
    guest_free_table(mm->l4);
    guest_free_table(mm->kernel_l4);
    mutex_unlock(&mm->lock);
}

void mm_load(struct vcpu *v, struct mm *mm)
{
    if ( v->mm == mm )
        return;
    if ( mm )
        mm->users++;
    xen_set_user_root(v, mm ? mm->l4 : 0);
    if ( v->mm )
        v->mm->users--;
    v->mm = mm;
}

/*
 * Ground truth.
 */

uint64_t next_stamp(void)
{
    static uint64_t stamp = 1000;

    return ++stamp;
}

uint64_t content(const struct mm *mm, unsigned long va)
{
    unsigned long *p = walk_l1e(mm->l4, va);

    if ( !p || !(*p & _PAGE_PRESENT) || !mfn_valid(_mfn(frame_of(*p))) )
        return ABSENT;
    return *table(frame_of(*p));
}

unsigned int frame_users(unsigned long f);

/* P2 where it happens: may this store be? */
void truth_wrote(struct mm *mm, unsigned long va, unsigned long frame,
                 bool by_xen)
{
    unsigned long type;
    struct vpage *vp;
    unsigned int c, a;

    CHECK(mm, "store without an address space");
    CHECK(find_page(va, &c, &a), "store at %#lx, which nobody mapped writable",
          va);
    vp = &mm->page[c][a];
    CHECK(vp->vma_w, "store at %#lx, which the kernel made read-only", va);
    CHECK(frame_users(frame), "store to the free frame %lu", frame);
    CHECK(vp->foreign || frame_users(frame) == 1 || mm->lock.held,
          "store at %#lx to frame %lu, which is shared", va, frame);
    type = frame_table[frame].u.inuse.type_info;
    CHECK(!(type & PGT_count_mask) || vp->foreign ||
          (type & PGT_type_mask) == PGT_writable_page,
          "store at %#lx to frame %lu of type %#lx", va, frame, type);
    vp->expect = *table(frame);
    truth_touched(mm, va & PAGE_MASK, 1);
}

void truth_touched(struct mm *mm, unsigned long va, unsigned long pages)
{
    unsigned long i, first, last;
    unsigned int r;

    for ( r = 0; r < NR_RANGES; ++r )
    {
        struct range *g = &mm->proc.range[r];

        if ( !g->used || !g->quiet || va + (pages << 12) <= g->start ||
             va >= g->start + (g->pages << 12) )
            continue;
        first = va > g->start ? (va - g->start) >> 12 : 0;
        last = (va + (pages << 12) - g->start) >> 12;
        for ( i = first; i < last && i < g->pages; ++i )
            g->quiet[i] = 0;
    }
}

void truth_check(void)
{
    unsigned int m, c, a;

    for ( m = 0; m < NR_MMS; ++m )
        for ( c = 0; mms[m].live && c < NR_CHUNKS; ++c )
            for ( a = 0; a < NR_ACTIVE; ++a )
            {
                const struct vpage *vp = &mms[m].page[c][a];
                unsigned long va = va_of(c, active_slot[a]);
                uint64_t now = content(&mms[m], va);

                CHECK(!vp->vma || vp->foreign || now == ABSENT ||
                      now == vp->expect,
                      "process %u reads %#lx at %#lx; it last wrote %#lx", m,
                      (unsigned long)now, va, (unsigned long)vp->expect);
            }
    mm_check_counts();
    hw_check_tlbs();
    cda_check();
}
