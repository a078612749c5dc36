/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * References, types and entry updates with the semantics of Xen's
 * arch/x86/mm.c: what is validated when, which references entries hold, what
 * is under page_lock(), and where the hooks of pagefault_cda.c are called.
 */
#include "mm.h"
#include "hw.h"
#include "build/cda.h"

struct page_info frame_table[NR_FRAMES];
uint8_t phys[NR_FRAMES][4096] __attribute__((aligned(4096)));
uint8_t dmap_rw[NR_FRAMES], root_refs[NR_FRAMES];
static int mapped;

struct page_info *mfn_to_page(mfn_t mfn)
{
    /* Xen computes a pointer for any number; only valid ones may be used. */
    return mfn_valid(mfn) ? &frame_table[mfn_x(mfn)]
                          : (struct page_info *)(mfn_x(mfn) * 64 + 8);
}

mfn_t page_to_mfn(const struct page_info *pg)
{
    return _mfn(pg - frame_table);
}

void *map_domain_page(mfn_t mfn)
{
    CHECK(mfn_valid(mfn), "maps frame %#lx", mfn_x(mfn));
    mapped++;
    sched_point();
    return phys[mfn_x(mfn)];
}

void unmap_domain_page(const void *p)
{
    CHECK(p, "unmaps NULL");
    mapped--;
}

bool get_page(struct page_info *pg, const struct domain *d)
{
    sched_point();
    if ( pg->owner != d || !(pg->count_info & PGC_count_mask) )
        return false;
    pg->count_info++;
    return true;
}

void put_page(struct page_info *pg)
{
    CHECK(pg->count_info & PGC_count_mask, "frame %td: no reference to put",
          pg - frame_table);
    pg->count_info--;
}

int page_lock(struct page_info *pg)
{
    unsigned long x;

    CHECK(!current->locked_page, "page_lock() nested");
    CHECK(!current->spins || current->locked_page == NULL, "lock order");
    sched_at("page_lock");
    while ( (x = pg->u.inuse.type_info) & PGT_locked )
        sched_wait();
    if ( !(x & PGT_validated) || !(x & PGT_count_mask) )
        return 0;
    pg->u.inuse.type_info = x + (1 | PGT_locked);
    current->locked_page = pg;
    sched_at("page_locked");
    return 1;
}

void page_unlock(struct page_info *pg)
{
    CHECK(current->locked_page == pg, "page_unlock() of another's lock");
    CHECK((pg->u.inuse.type_info & PGT_locked) &&
          (pg->u.inuse.type_info & PGT_count_mask) > 1, "page_unlock()");
    pg->u.inuse.type_info -= 1 | PGT_locked;
    current->locked_page = NULL;
    sched_at("page_unlock");
}

/* pv/mm.h: adjust_guest_l1e(), and the grant mark it leaves alone. */
static unsigned long adjust(unsigned long e)
{
    if ( !(e & _PAGE_PRESENT) )
        return e;
    e |= _PAGE_USER;
    return e & cda_l1e_keep;
}

static int get_ref_l1e(unsigned long e)
{
    struct page_info *pg;

    if ( !(e & _PAGE_PRESENT) || (e & CDA_L1E_NEVER) )
        return 0;
    pg = mfn_to_page(_mfn(frame_of(e)));
    if ( !mfn_valid(_mfn(frame_of(e))) )
        return 0;                 /* MMIO */
    if ( !get_page(pg, pg->owner) )
        return -EINVAL;
    if ( (e & _PAGE_RW) && pg->owner == &domu &&
         get_page_type(pg, PGT_writable_page) <= 0 )
    {
        put_page(pg);
        return -EINVAL;
    }
    return 0;
}

static void put_ref_l1e(unsigned long e)
{
    struct page_info *pg;

    if ( !(e & _PAGE_PRESENT) || (e & CDA_L1E_NEVER) ||
         !mfn_valid(_mfn(frame_of(e))) )
        return;
    pg = mfn_to_page(_mfn(frame_of(e)));
    if ( (e & _PAGE_RW) && pg->owner == &domu )
        put_page_type(pg);
    put_page(pg);
}

static const unsigned long type_of[] = {
    0, PGT_l1_page_table, PGT_l2_page_table, PGT_l3_page_table,
    PGT_l4_page_table,
};

static unsigned int level_of(unsigned long type)
{
    return (type & PGT_type_mask) >> 61;
}

static int get_ref_table(unsigned long e, unsigned int level)
{
    struct page_info *pg = mfn_to_page(_mfn(frame_of(e)));

    if ( !(e & _PAGE_PRESENT) )
        return 0;
    if ( !mfn_valid(_mfn(frame_of(e))) || !get_page(pg, &domu) )
        return -EINVAL;
    if ( get_page_type(pg, type_of[level]) <= 0 )
    {
        put_page(pg);
        return -EINVAL;
    }
    return 0;
}

static void put_ref_table(unsigned long e)
{
    struct page_info *pg = mfn_to_page(_mfn(frame_of(e)));

    if ( !(e & _PAGE_PRESENT) )
        return;
    put_page_type(pg);
    put_page(pg);
}

static int validate(struct page_info *pg, unsigned int level)
{
    unsigned long *t = table(pg - frame_table);
    unsigned int i;
    int rc;

    if ( level == 4 && (rc = cda_table_new(&domu, pg)) )
        return rc;
    for ( i = 0; i < 512; ++i )
    {
        if ( level == 1 )
        {
            t[i] = adjust(t[i]);
            CHECK(!get_ref_l1e(t[i]), "model guest: bad L1e %#lx", t[i]);
        }
        else
            CHECK(!get_ref_table(t[i], level - 1),
                  "model guest: bad L%ue %#lx", level, t[i]);
    }
    return 0;
}

static void devalidate(struct page_info *pg, unsigned long type)
{
    unsigned long *t = table(pg - frame_table);
    unsigned int i, level = level_of(type);

    if ( domu.paging )
        shadow_remove_all_shadows(&domu, page_to_mfn(pg));
    cda_table_gone(&domu, pg, type);
    for ( i = 0; i < 512; ++i )
        level == 1 ? put_ref_l1e(t[i]) : put_ref_table(t[i]);
}

/* 1: done; 0: another type; -EINTR. As Xen's, but for the sign of success. */
static int get_type(struct page_info *pg, unsigned long type)
{
    unsigned long x;
    int rc;

    sched_at("get_type");
    for ( ; ; )
    {
        x = pg->u.inuse.type_info;
        if ( !(x & PGT_count_mask) )
            break;
        if ( (x & PGT_type_mask) != type )
            return 0;
        if ( x & PGT_validated )
        {
            pg->u.inuse.type_info++;
            return 1;
        }
        sched_wait();             /* another vCPU validates it */
    }

    if ( (x & PGT_type_mask) != type )
    {
        x = type;
        /* tlbflush_filter(): not if everyone flushed since. */
        if ( pg->stamp >= hw_flushes )
            flush_tlb_mask(NULL);
    }
    pg->u.inuse.type_info = (x & ~PGT_validated) + 1;
    if ( type == PGT_writable_page || type == PGT_seg_desc_page )
        rc = 0;
    else
        rc = validate(pg, level_of(type));
    if ( rc )
    {
        pg->u.inuse.type_info--;
        return rc;
    }
    pg->u.inuse.type_info |= PGT_validated;
    return 1;
}

int get_page_type(struct page_info *pg, unsigned long type)
{
    return get_type(pg, type) == 1;
}

void put_page_type(struct page_info *pg)
{
    unsigned long x;

    sched_at("put_type");
    for ( ; ; )
    {
        x = pg->u.inuse.type_info;
        CHECK((x & PGT_count_mask) && (x & PGT_validated),
              "frame %td: type reference underflow", pg - frame_table);
        if ( ((x - 1) & (PGT_locked | PGT_count_mask)) != (PGT_locked | 1) )
            break;
        sched_wait();
    }
    if ( (x & PGT_count_mask) == 1 && level_of(x) >= 1 && level_of(x) <= 4 )
    {
        pg->u.inuse.type_info = x & ~PGT_validated;
        devalidate(pg, x);
    }
    if ( (x & PGT_count_mask) == 1 )
        pg->stamp = hw_flushes;   /* set_tlbflush_timestamp() */
    pg->u.inuse.type_info--;
}

static void set_l1(unsigned long tab, unsigned int slot, unsigned long val,
                   bool preserve_ad)
{
    unsigned long *p = &table(tab)[slot], old = *p, cur;

    cda_guest_update(&domu, _mfn(tab), p);
    val = adjust(val);
    CHECK(!get_ref_l1e(val), "model guest: bad L1e %#lx", val);
    sched_point();
    cur = *p;
    CHECK(!((cur ^ old) & ~(unsigned long)(_PAGE_ACCESSED | _PAGE_DIRTY)),
          "entry %#lx became %#lx under page_lock()", old, cur);
    if ( preserve_ad )
        val |= cur & (_PAGE_ACCESSED | _PAGE_DIRTY);
    *p = val;
    hw_shadow_follow(tab, slot);
    put_ref_l1e(old);
}

static int set_table(unsigned long tab, unsigned int level, unsigned int slot,
                     unsigned long val)
{
    unsigned long *p = &table(tab)[slot], old = *p;

    if ( get_ref_table(val, level - 1) )
        return -EINVAL;
    *p = val;
    sched_point();
    put_ref_table(old);
    return 0;
}

int xen_set_entry(unsigned long tab, unsigned int slot, unsigned long val,
                  bool preserve_ad)
{
    struct page_info *pg = &frame_table[tab];
    unsigned int level;
    int rc = 0;

    CHECK(get_page(pg, &domu), "model guest: table %lu is not its own", tab);
    if ( !page_lock(pg) )
    {
        table(tab)[slot] = val;   /* not a table in use: plain memory */
        put_page(pg);
        return 0;
    }
    level = level_of(pg->u.inuse.type_info);
    if ( level == 1 )
        set_l1(tab, slot, val, preserve_ad);
    else if ( level <= 4 )
        rc = set_table(tab, level, slot, val);
    else
        table(tab)[slot] = val;
    page_unlock(pg);
    put_page(pg);
    return rc;
}

int xen_pin(unsigned long tab, unsigned int level)
{
    struct page_info *pg = &frame_table[tab];
    int rc;

    CHECK(get_page(pg, &domu), "pin");
    rc = get_type(pg, type_of[level]);
    if ( rc == -EINTR )
    {
        put_page(pg);
        return -ERESTART;
    }
    CHECK(rc == 1, "model guest: table %lu cannot be pinned at level %u", tab,
          level);
    CHECK(!(pg->u.inuse.type_info & PGT_pinned), "pinned twice");
    pg->u.inuse.type_info |= PGT_pinned;
    return 0;
}

void xen_unpin(unsigned long tab)
{
    struct page_info *pg = &frame_table[tab];

    CHECK(pg->u.inuse.type_info & PGT_pinned, "not pinned");
    pg->u.inuse.type_info &= ~PGT_pinned;
    put_page_type(pg);
    put_page(pg);
}

void xen_set_user_root(struct vcpu *v, unsigned long tab)
{
    unsigned long old = mfn_x(v->arch.guest_table_user.mfn);

    if ( tab )
    {
        CHECK(get_page(&frame_table[tab], &domu) &&
              get_page_type(&frame_table[tab], PGT_l4_page_table), "root");
        root_refs[tab]++;
    }
    v->arch.guest_table_user.mfn = _mfn(tab);
    tlb_flush_vcpu(v);
    if ( old )
    {
        root_refs[old]--;
        put_page_type(&frame_table[old]);
        put_page(&frame_table[old]);
    }
}

void xen_map_grant(unsigned long tab, unsigned int slot, unsigned long frame)
{
    struct page_info *pg = &frame_table[tab];
    unsigned long *p = &table(tab)[slot], old;

    CHECK(get_page(pg, &domu) && page_lock(pg), "grant");
    old = *p;
    cda_guest_update(&domu, _mfn(tab), p);
    *p = adjust(mkpte(frame, _PAGE_PRESENT | _PAGE_RW | _PAGE_USER |
                             _PAGE_ACCESSED | _PAGE_DIRTY)) | cda_l1e_grant;
    hw_shadow_follow(tab, slot);
    put_ref_l1e(old);
    page_unlock(pg);
    put_page(pg);
}

/* grant_table.c:278: compares frame, P and RW; fails if they are not its. */
int xen_unmap_grant(unsigned long tab, unsigned int slot, unsigned long frame)
{
    struct page_info *pg = &frame_table[tab];
    unsigned long *p = &table(tab)[slot];
    int rc = -EINVAL;

    CHECK(get_page(pg, &domu) && page_lock(pg), "grant");
    if ( frame_of(*p) == frame && (*p & _PAGE_PRESENT) && (*p & _PAGE_RW) )
    {
        cda_guest_update(&domu, _mfn(tab), p);
        *p = 0;
        hw_shadow_follow(tab, slot);
        rc = 0;
    }
    page_unlock(pg);
    put_page(pg);
    return rc;
}

void mm_reset(void)
{
    unsigned int i;

    memset(frame_table, 0, sizeof(frame_table));
    memset(phys, 0, sizeof(phys));
    memset(root_refs, 0, sizeof(root_refs));
    for ( i = 1; i < NR_FRAMES; ++i )
    {
        frame_table[i].owner = &domu;
        frame_table[i].count_info = PGC_allocated | 2; /* kernel's mapping */
        frame_table[i].u.inuse.type_info = PGT_writable_page | PGT_validated |
                                           1;
        dmap_rw[i] = true;
    }
    mapped = 0;
}

void mm_check_counts(void)
{
    static unsigned int refs[NR_FRAMES], types[NR_FRAMES];
    unsigned int f, i;

    CHECK(!mapped, "%d mappings of frames leaked", mapped);
    memset(refs, 0, sizeof(refs));
    memset(types, 0, sizeof(types));
    for ( f = 1; f < NR_FRAMES; ++f )
    {
        const struct page_info *pg = &frame_table[f];
        unsigned long info = pg->u.inuse.type_info;
        unsigned int level = level_of(info);

        if ( pg->owner == &domu )
            refs[f] += 2;
        else
            refs[f]++;
        types[f] += dmap_rw[f] + root_refs[f] + !!(info & PGT_pinned);
        refs[f] += root_refs[f] + !!(info & PGT_pinned);
        if ( !level || level > 4 || !(info & PGT_validated) ||
             !(info & PGT_count_mask) )
            continue;
        for ( i = 0; i < 512; ++i )
        {
            unsigned long e = table(f)[i], t = frame_of(e);

            if ( !(e & _PAGE_PRESENT) || !mfn_valid(_mfn(t)) ||
                 (level == 1 && (e & CDA_L1E_NEVER)) )
                continue;
            refs[t]++;
            types[t] += level > 1 ||
                        ((e & _PAGE_RW) && frame_table[t].owner == &domu);
        }
    }
    for ( f = 1; f < NR_FRAMES; ++f )
    {
        const struct page_info *pg = &frame_table[f];

        CHECK((pg->count_info & PGC_count_mask) == refs[f],
              "frame %u: %lu references, tables imply %u", f,
              pg->count_info & PGC_count_mask, refs[f]);
        CHECK((pg->u.inuse.type_info & PGT_count_mask) == types[f],
              "frame %u: %lu type references (%lx), tables imply %u", f,
              pg->u.inuse.type_info & PGT_count_mask,
              pg->u.inuse.type_info >> 55, types[f]);
    }
}
