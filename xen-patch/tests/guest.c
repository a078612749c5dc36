/* SPDX-License-Identifier: GPL-2.0-only */
/* The model guest's memory: frames, tables, faults, single pages. */
#include "guest.h"
#include "hw.h"
#include "build/cda.h"

const unsigned int active_slot[NR_ACTIVE] = { 0, 1, 2, 3, 509, 510, 511 };
struct mm mms[NR_MMS];
unsigned long zero_frame, foreign_frame, mmio_frame = NR_FRAMES + 5;
unsigned int free_frames;
static unsigned long grant_frame, free_list[NR_FRAMES];
static unsigned int mapcount[NR_FRAMES];

#define POISON 0xdeadf4eedeadf4eeULL
#define PTE_RO (_PAGE_PRESENT | _PAGE_USER | _PAGE_ACCESSED)
#define PTE_RW (PTE_RO | _PAGE_RW | _PAGE_DIRTY)
#define TBL    (_PAGE_PRESENT | _PAGE_RW | _PAGE_USER | _PAGE_ACCESSED)

void mutex_lock(struct mutex *m)
{
    while ( m->held )
        sched_wait();
    m->held = true;
}

void mutex_unlock(struct mutex *m)
{
    m->held = false;
    sched_point();
}

unsigned long frame_alloc(void)
{
    unsigned long f;

    CHECK(free_frames, "model guest is out of frames");
    f = free_list[--free_frames];
    CHECK(*table(f) == POISON, "frame %lu was written while it was free", f);
    memset(table(f), 0, PAGE_SIZE);
    mapcount[f] = 1;
    return f;
}

void frame_get(unsigned long f)
{
    mapcount[f]++;
}

void frame_drop(unsigned long f)
{
    CHECK(mapcount[f], "model guest: frame %lu freed twice", f);
    if ( --mapcount[f] )
        return;
    *table(f) = POISON;
    free_list[free_frames++] = f;
}

unsigned int frame_users(unsigned long f)
{
    return mapcount[f];
}

/* The kernel's own mapping must not be writable for a page table. */
static void direct_map(unsigned long f, bool rw)
{
    if ( dmap_rw[f] == rw )
        return;
    if ( rw )
        CHECK(get_page_type(&frame_table[f], PGT_writable_page),
              "frame %lu cannot become writable again: its type is %#lx", f,
              frame_table[f].u.inuse.type_info);
    else
        put_page_type(&frame_table[f]);
    dmap_rw[f] = rw;
}

static unsigned long *l2e_of(struct mm *mm, unsigned int c, unsigned long *tab,
                             unsigned int *slot)
{
    unsigned long va = va_of(c, 0);

    *tab = mm->l2[va >> 30];
    *slot = l2_table_offset(va);
    return &table(*tab)[*slot];
}

static void set_l2e(struct mm *mm, unsigned int c, unsigned long val)
{
    unsigned long tab;
    unsigned int slot;

    l2e_of(mm, c, &tab, &slot);
    CHECK(!xen_set_entry(tab, slot, val, false), "model guest: bad L2e");
}

static void free_table(unsigned long f)
{
    direct_map(f, true);
    frame_drop(f);
}

unsigned long *pte_of(struct mm *mm, unsigned int c, unsigned int slot)
{
    return mm->l1[c] ? &table(mm->l1[c])[slot] : NULL;
}

static unsigned long pte(struct mm *mm, unsigned int c, unsigned int slot)
{
    return mm->l1[c] ? table(mm->l1[c])[slot] : 0;
}

static void populate(struct mm *mm, unsigned int c)
{
    unsigned long f;

    if ( mm->l1[c] )
        return;
    f = frame_alloc();
    direct_map(f, false);
    CHECK(!xen_pin(f, 1), "pin");
    mm->l1[c] = f;
    set_l2e(mm, c, mkpte(f, TBL));
}

void set_pte(struct mm *mm, unsigned int c, unsigned int slot,
             unsigned long val, bool preserve_ad)
{
    unsigned long outer = current->touching;

    populate(mm, c);
    truth_touched(mm, va_of(c, slot), 1);
    trace("cpu%u mm%td pte %u/%u %lx -> %lx\n", current->id, mm - mms, c, slot,
          table(mm->l1[c])[slot], val);
    current->touching = va_of(c, slot);
    CHECK(!xen_set_entry(mm->l1[c], slot, val, preserve_ad), "mmu_update");
    current->touching = outer;
    truth_touched(mm, va_of(c, slot), 1);
}

/* ptep_get_and_clear() */
unsigned long take_pte(struct mm *mm, unsigned int c, unsigned int slot)
{
    unsigned long old, outer = current->touching;

    truth_touched(mm, va_of(c, slot), 1);
    current->touching = va_of(c, slot);
    old = xen_take_entry(mm->l1[c], slot);
    current->touching = outer;
    trace("cpu%u mm%td pte %u/%u %lx taken\n", current->id, mm - mms, c, slot,
          old);
    truth_touched(mm, va_of(c, slot), 1);
    return old;
}

bool find_page(unsigned long va, unsigned int *c, unsigned int *a)
{
    unsigned int slot;

    if ( va < VA_BASE || va >= VA_BASE + NR_CHUNKS * CHUNK_BYTES )
        return false;
    *c = (va - VA_BASE) / CHUNK_BYTES;
    slot = l1_table_offset(va);
    for ( *a = 0; *a < NR_ACTIVE; ++*a )
        if ( active_slot[*a] == slot )
            return true;
    return false;
}

static int fault_locked(struct mm *mm, unsigned long va, bool write)
{
    unsigned int c, a, i, slot = l1_table_offset(va);
    struct vpage *vp;
    unsigned long e, f, tab, n;

    if ( !find_page(va, &c, &a) )
        return -EFAULT;
    vp = &mm->page[c][a];
    if ( !vp->vma || vp->foreign || (write && !vp->vma_w) )
        return -EFAULT;
    populate(mm, c);
    if ( write && !(*l2e_of(mm, c, &tab, &i) & _PAGE_RW) )
        return -EFAULT;

    e = pte(mm, c, slot);
    if ( !(e & _PAGE_PRESENT) )
    {
        f = frame_alloc();
        set_pte(mm, c, slot, mkpte(f, vp->vma_w ? PTE_RW : PTE_RO), false);
        return 0;
    }
    if ( write && !(e & _PAGE_RW) )
    {
        f = frame_of(e);
        if ( f != zero_frame && mapcount[f] == 1 )
            /* wp_page_reuse(): whatever else the entry says is kept. */
            set_pte(mm, c, slot, e | _PAGE_RW | _PAGE_DIRTY | _PAGE_ACCESSED,
                    false);
        else
        {
            n = frame_alloc();
            memcpy(table(n), table(f), PAGE_SIZE);
            set_pte(mm, c, slot, mkpte(n, PTE_RW), false);
            tlb_flush_page(va);
            frame_drop(f);
            return 0;
        }
    }
    tlb_flush_page(va);
    return 0;
}

int kern_fault(struct mm *mm, unsigned long va, bool write)
{
    int rc;

    if ( !mm )
        return -EFAULT;
    mutex_lock(&mm->lock);
    rc = fault_locked(mm, va, write);
    mutex_unlock(&mm->lock);
    return rc;
}

static void zap(struct mm *mm, unsigned int c, unsigned int slot)
{
    unsigned long e = pte(mm, c, slot);

    if ( !(e & _PAGE_PRESENT) )
        return;
    if ( e & CDA_L1E_NEVER )
    {
        truth_touched(mm, va_of(c, slot), 1);
        CHECK(!xen_unmap_grant(mm->l1[c], slot, grant_frame),
              "a grant cannot be unmapped any more: entry %#lx", e);
        truth_touched(mm, va_of(c, slot), 1);
    }
    else
        set_pte(mm, c, slot, 0, false);
    tlb_flush_page(va_of(c, slot));
    if ( mfn_valid(_mfn(frame_of(e))) )
        frame_drop(frame_of(e));
}

static void unmap_locked(struct mm *mm, unsigned int c, unsigned int a)
{
    zap(mm, c, active_slot[a]);
    memset(&mm->page[c][a], 0, sizeof(mm->page[c][a]));
}

void kern_unmap(struct mm *mm, unsigned int c, unsigned int a)
{
    mutex_lock(&mm->lock);
    unmap_locked(mm, c, a);
    mutex_unlock(&mm->lock);
}

void kern_map(struct mm *mm, unsigned int c, unsigned int a, bool w)
{
    mutex_lock(&mm->lock);
    unmap_locked(mm, c, a);
    mm->page[c][a].vma_w = w;
    mm->page[c][a].vma = true;
    mutex_unlock(&mm->lock);
}

void kern_map_zero(struct mm *mm, unsigned int c, unsigned int a)
{
    mutex_lock(&mm->lock);
    unmap_locked(mm, c, a);
    mm->page[c][a].vma_w = true;
    mm->page[c][a].vma = true;
    frame_get(zero_frame);
    set_pte(mm, c, active_slot[a], mkpte(zero_frame, PTE_RO), false);
    mutex_unlock(&mm->lock);
}

void kern_map_foreign(struct mm *mm, unsigned int c, unsigned int a, bool io)
{
    unsigned long f = io ? mmio_frame : foreign_frame;

    mutex_lock(&mm->lock);
    unmap_locked(mm, c, a);
    mm->page[c][a].vma = mm->page[c][a].vma_w = true;
    mm->page[c][a].foreign = true;
    if ( !io )
        frame_get(f);
    set_pte(mm, c, active_slot[a], mkpte(f, PTE_RW), false);
    mutex_unlock(&mm->lock);
}

void kern_grant(struct mm *mm, unsigned int c, unsigned int a, bool map)
{
    mutex_lock(&mm->lock);
    unmap_locked(mm, c, a);
    if ( map )
    {
        populate(mm, c);
        truth_touched(mm, va_of(c, active_slot[a]), 1);
        mm->page[c][a].vma = mm->page[c][a].vma_w = true;
        mm->page[c][a].foreign = true;
        frame_get(grant_frame);
        xen_map_grant(mm->l1[c], active_slot[a], grant_frame);
        truth_touched(mm, va_of(c, active_slot[a]), 1);
    }
    mutex_unlock(&mm->lock);
}

void kern_protect(struct mm *mm, unsigned int c, unsigned int a, bool w)
{
    struct vpage *vp = &mm->page[c][a];
    unsigned int slot = active_slot[a];
    unsigned long e;

    mutex_lock(&mm->lock);
    e = pte(mm, c, slot);
    if ( vp->vma && !vp->foreign )
    {
        if ( w )
        {
            vp->vma_w = true;
            /* can_change_pte_writable(): exclusive and dirty. */
            if ( (e & _PAGE_PRESENT) && !(e & _PAGE_RW) &&
                 (e & _PAGE_DIRTY) && mapcount[frame_of(e)] == 1 &&
                 frame_of(e) != zero_frame )
                set_pte(mm, c, slot, e | _PAGE_RW, true);
        }
        else
        {
            if ( e & _PAGE_PRESENT )
                set_pte(mm, c, slot, e & ~(unsigned long)_PAGE_RW, true);
            tlb_flush_page(va_of(c, slot));
            vp->vma_w = false;
        }
    }
    mutex_unlock(&mm->lock);
}

/* Only entries that look written are touched: page_mkclean(), write-back. */
void kern_make_clean(struct mm *mm, unsigned int c, unsigned int a)
{
    unsigned long e;

    mutex_lock(&mm->lock);
    e = pte(mm, c, active_slot[a]);
    if ( (e & (_PAGE_PRESENT | _PAGE_RW | _PAGE_DIRTY)) ==
         (_PAGE_PRESENT | _PAGE_RW | _PAGE_DIRTY) &&
         !mm->page[c][a].foreign )
    {
        set_pte(mm, c, active_slot[a], e & ~(unsigned long)_PAGE_DIRTY, false);
        tlb_flush_page(va_of(c, active_slot[a]));
    }
    mutex_unlock(&mm->lock);
}

void kern_age(struct mm *mm, unsigned int c, unsigned int a)
{
    unsigned long e;

    mutex_lock(&mm->lock);
    e = pte(mm, c, active_slot[a]);
    if ( (e & _PAGE_PRESENT) && (e & _PAGE_ACCESSED) &&
         !mm->page[c][a].foreign )
    {
        set_pte(mm, c, active_slot[a], e & ~(unsigned long)_PAGE_ACCESSED,
                false);
        tlb_flush_page(va_of(c, active_slot[a]));
    }
    mutex_unlock(&mm->lock);
}

void kern_migrate(struct mm *mm, unsigned int c, unsigned int a)
{
    unsigned int slot = active_slot[a];
    unsigned long e, n;

    mutex_lock(&mm->lock);
    e = pte(mm, c, slot);
    if ( (e & _PAGE_PRESENT) && !mm->page[c][a].foreign &&
         frame_of(e) != zero_frame && mapcount[frame_of(e)] == 1 )
    {
        e = take_pte(mm, c, slot);
        tlb_flush_page(va_of(c, slot));
        n = frame_alloc();
        memcpy(table(n), table(frame_of(e)), PAGE_SIZE);
        set_pte(mm, c, slot, mkpte(n, e & 0xfff), false);
        frame_drop(frame_of(e));
    }
    mutex_unlock(&mm->lock);
}

/* get_user_pages(FOLL_WRITE), then a write through the direct map. */
void kern_gup_write(struct mm *mm, unsigned int c, unsigned int a,
                    uint64_t value)
{
    unsigned int slot = active_slot[a];
    unsigned long e;
    int rc = 0;

    mutex_lock(&mm->lock);
    while ( !((e = pte(mm, c, slot)) & _PAGE_PRESENT) || !(e & _PAGE_RW) )
        if ( (rc = fault_locked(mm, va_of(c, slot), true)) != 0 )
            break;
    /* Where D is looked at such writes are missed, and documented to be. */
    if ( !rc && mm->page[c][a].vma_w && !mm->page[c][a].foreign &&
         !(e & CDA_L1E_WATCH) )
    {
        *table(frame_of(e)) = value;
        truth_wrote(mm, va_of(c, slot), frame_of(e), false);
    }
    mutex_unlock(&mm->lock);
}

void kern_fill(struct mm *mm, unsigned int c)
{
    unsigned int slot, a;

    mutex_lock(&mm->lock);
    for ( slot = 0; slot < 512; ++slot )
    {
        if ( find_page(va_of(c, slot), &c, &a) ||
             (pte(mm, c, slot) & _PAGE_PRESENT) )
            continue;
        frame_get(zero_frame);
        set_pte(mm, c, slot, mkpte(zero_frame, PTE_RO), false);
    }
    mm->filled[c] = true;
    mutex_unlock(&mm->lock);
}

/*
 * KSM: write_protect_page(), which leaves an entry alone that is read-only
 * and clean; then one frame for both.
 */
bool kern_ksm(struct mm *x, unsigned int cx, unsigned int ax,
              struct mm *y, unsigned int cy, unsigned int ay)
{
    struct { struct mm *mm; unsigned int c, a; } p[2] = { { x, cx, ax },
                                                          { y, cy, ay } };
    unsigned long e[2];
    unsigned int i, slot;
    bool done = false;

    if ( x == y && cx == cy && ax == ay )
        return false;
    if ( x > y )                  /* one order of locks */
    {
        struct mm *t = x;

        x = y;
        y = t;
    }
    mutex_lock(&x->lock);
    if ( x != y )
        mutex_lock(&y->lock);

    for ( i = 0; i < 2; ++i )
    {
        slot = active_slot[p[i].a];
        e[i] = pte(p[i].mm, p[i].c, slot);
        if ( !(e[i] & _PAGE_PRESENT) || p[i].mm->page[p[i].c][p[i].a].foreign ||
             frame_of(e[i]) == zero_frame )
            goto out;
    }
    if ( frame_of(e[0]) == frame_of(e[1]) ||
         *table(frame_of(e[0])) != *table(frame_of(e[1])) )
        goto out;

    for ( i = 0; i < 2; ++i )
    {
        slot = active_slot[p[i].a];
        if ( mapcount[frame_of(e[i])] != 1 )
            continue;             /* already shared, hence read-only */
        if ( e[i] & (_PAGE_RW | _PAGE_DIRTY) )
        {
            e[i] &= ~(unsigned long)(_PAGE_RW | _PAGE_DIRTY);
            set_pte(p[i].mm, p[i].c, slot, e[i], false);
            tlb_flush_page(va_of(p[i].c, slot));
        }
    }
    if ( *table(frame_of(e[0])) == *table(frame_of(e[1])) )
    {
        frame_get(frame_of(e[0]));
        set_pte(p[1].mm, p[1].c, active_slot[p[1].a],
                mkpte(frame_of(e[0]), PTE_RO), false);
        tlb_flush_page(va_of(p[1].c, active_slot[p[1].a]));
        frame_drop(frame_of(e[1]));
        done = true;
    }
 out:
    if ( x != y )
        mutex_unlock(&y->lock);
    mutex_unlock(&x->lock);
    return done;
}

/* Removes the table of chunk @c with all it maps. */
static void drop_table(struct mm *mm, unsigned int c)
{
    unsigned long f = mm->l1[c];
    unsigned int i;

    if ( !f )
        return;
    for ( i = 0; i < 512; ++i )
        zap(mm, c, i);
    memset(mm->page[c], 0, sizeof(mm->page[c]));
    mm->filled[c] = false;
    set_l2e(mm, c, 0);
    tlb_flush_page(va_of(c, 0));
    flush_tlb_mask(NULL);         /* the guest's: paging structure caches */
    mm->l1[c] = 0;
    xen_unpin(f);
    free_table(f);
}

/* mremap() of 2 MiB: the table as it is, at another address. */
void kern_move_table(struct mm *mm, unsigned int from, unsigned int to)
{
    unsigned long f;

    mutex_lock(&mm->lock);
    if ( from != to && mm->l1[from] )
    {
        truth_touched(mm, va_of(from, 0), 512);
        truth_touched(mm, va_of(to, 0), 512);
        drop_table(mm, to);
        memset(mm->page[to], 0, sizeof(mm->page[to]));
        f = mm->l1[from];
        set_l2e(mm, from, 0);
        mm->l1[from] = 0;
        flush_tlb_mask(NULL);
        /* Nobody stores meanwhile: both are unmapped for all vCPUs. */
        memcpy(mm->page[to], mm->page[from], sizeof(mm->page[to]));
        memset(mm->page[from], 0, sizeof(mm->page[from]));
        mm->l1[to] = f;
        set_l2e(mm, to, mkpte(f, TBL));
        mm->filled[to] = mm->filled[from];
        mm->filled[from] = false;
        truth_touched(mm, va_of(from, 0), 512);
        truth_touched(mm, va_of(to, 0), 512);
    }
    mutex_unlock(&mm->lock);
}

/*
 * The table stops being one, is changed as plain memory, and becomes one
 * again at the same place.
 */
void kern_recreate_table(struct mm *mm, unsigned int c)
{
    unsigned long f, *t;
    unsigned int a;

    mutex_lock(&mm->lock);
    f = mm->l1[c];
    /* Xen would not validate foreign frames and grants in a new table. */
    for ( a = 0; a < NR_ACTIVE; ++a )
        if ( mm->page[c][a].foreign )
            f = 0;
    if ( f )
    {
        truth_touched(mm, va_of(c, 0), 512);
        set_l2e(mm, c, 0);
        flush_tlb_mask(NULL);
        xen_unpin(f);
        direct_map(f, true);
        t = table(f);
        for ( a = 0; a < NR_ACTIVE; ++a )
        {
            unsigned long *p = &t[active_slot[a]];

            if ( (*p & _PAGE_PRESENT) && mm->page[c][a].vma_w &&
                 !mm->page[c][a].foreign && frame_of(*p) != zero_frame &&
                 mapcount[frame_of(*p)] == 1 )
            {
                *p |= _PAGE_RW | _PAGE_DIRTY;
                *table(frame_of(*p)) = mm->page[c][a].expect = next_stamp();
            }
        }
        direct_map(f, false);
        CHECK(!xen_pin(f, 1), "pin");
        set_l2e(mm, c, mkpte(f, TBL));
        truth_touched(mm, va_of(c, 0), 512);
    }
    mutex_unlock(&mm->lock);
}

void kern_l2_readonly(struct mm *mm, unsigned int c, bool ro)
{
    mutex_lock(&mm->lock);
    if ( mm->l1[c] )
    {
        truth_touched(mm, va_of(c, 0), 512);
        set_l2e(mm, c, mkpte(mm->l1[c], ro ? TBL & ~_PAGE_RW : TBL));
        flush_tlb_mask(NULL);
        truth_touched(mm, va_of(c, 0), 512);
    }
    mutex_unlock(&mm->lock);
}

/* A chunk without its table, for mm_exit(). */
void guest_forget_table(struct mm *mm, unsigned int c)
{
    unsigned long f = mm->l1[c], e;
    unsigned int i;

    if ( !f )
        return;
    xen_unpin(f);
    for ( i = 0; i < 512; ++i )
    {
        e = table(f)[i];
        if ( (e & _PAGE_PRESENT) && mfn_valid(_mfn(frame_of(e))) )
            frame_drop(frame_of(e));
    }
    free_table(f);
}

void guest_make_table(unsigned long f, unsigned int level)
{
    direct_map(f, false);
    if ( level == 1 )
        CHECK(!xen_pin(f, 1), "pin");
}

void guest_free_table(unsigned long f)
{
    free_table(f);
}

void guest_reset(void)
{
    unsigned long f;

    mm_reset();
    memset(mms, 0, sizeof(mms));
    memset(mapcount, 0, sizeof(mapcount));
    free_frames = 0;
    for ( f = 1; f < NR_FRAMES; ++f )
    {
        *table(f) = POISON;
        free_list[free_frames++] = f;
    }
    zero_frame = frame_alloc();
    grant_frame = frame_alloc();
    foreign_frame = frame_alloc();
    frame_table[foreign_frame].owner = &hvm_dom;
    frame_table[foreign_frame].u.inuse.type_info = 0;
    frame_table[foreign_frame].count_info = PGC_allocated | 1;
    dmap_rw[foreign_frame] = false;
}
