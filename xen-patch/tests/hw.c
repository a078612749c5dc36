/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A translation that was once cached as writable stays so until a flush,
 * whatever the tables say: missing flushes become visible as stores that land
 * where they must not.
 */
#include "guest.h"
#include "hw.h"
#include "mm.h"
#include "build/cda.h"

unsigned long hw_faults, hw_flushes;
void (*emul_first)(struct cda_store *store, unsigned long va);

#define PATH_FLAGS (_PAGE_PRESENT | _PAGE_USER)

static struct tlb_entry *tlb_slot(struct vcpu *v, unsigned long va)
{
    va >>= PAGE_SHIFT;
    return &v->tlb[(va ^ (va >> 9)) % TLB_SIZE];
}

void tlb_flush_vcpu(struct vcpu *v)
{
    memset(v->tlb, 0, sizeof(v->tlb));
}

bool hw_cached_rw(const struct vcpu *v, unsigned long va)
{
    const struct tlb_entry *t = tlb_slot((struct vcpu *)v, va);

    return t->valid && t->rw && t->va == (va & PAGE_MASK);
}

void hw_check_tlbs(void)
{
    unsigned int v, i;

    for ( v = 0; v < NR_VCPUS; ++v )
        for ( i = 0; i < TLB_SIZE; ++i )
        {
            const struct tlb_entry *t = &vcpus[v].tlb[i];
            const unsigned long *p = t->valid && t->rw
                ? walk_l1e(mfn_x(vcpus[v].arch.guest_table_user.mfn), t->va)
                : NULL;

            CHECK(!p || !(*p & _PAGE_PRESENT) || (*p & _PAGE_RW) ||
                  frame_of(*p) != t->frame,
                  "vCPU %u writes at %#lx, which entry %#lx does not allow", v,
                  t->va, *p);
        }
}

void flush_tlb_mask(const cpumask_t *mask)
{
    unsigned int i;

    sched_at("flush");
    hw_flushes++;
    for ( i = 0; i < NR_VCPUS; ++i )
        if ( !mask || (*mask >> i & 1) )
            tlb_flush_vcpu(&vcpus[i]);
}

void tlb_flush_page(unsigned long va)
{
    unsigned int i;

    for ( i = 0; i < NR_VCPUS; ++i )
        if ( tlb_slot(&vcpus[i], va)->va == (va & PAGE_MASK) )
            tlb_slot(&vcpus[i], va)->valid = false;
}

static unsigned long *step(unsigned long tab, unsigned long va,
                           unsigned int level)
{
    return &table(tab)[va >> (3 + 9 * level) & 511];
}

unsigned long *walk_l1e(unsigned long l4, unsigned long va)
{
    unsigned long tab = l4, e;
    unsigned int level;

    for ( level = 4; level > 1; --level, tab = frame_of(e) )
    {
        e = *step(tab, va, level);
        if ( !(e & _PAGE_PRESENT) || (level < 4 && (e & _PAGE_PSE)) )
            return NULL;
    }
    return step(tab, va, 1);
}

/*
 * __linear_lN_table: an entry of the tables in use, -EFAULT if there is no
 * table to read it from.
 */
int shim_get_linear(unsigned long *to, unsigned long at)
{
    unsigned int want = (at >> 40) & 15, level;
    unsigned long off = (at - LINEAR((unsigned long)want)) / 8;
    unsigned long va = off << (3 + 9 * want);
    unsigned long tab = mfn_x(current->arch.guest_table_user.mfn), e;

    sched_point();
    CHECK(want >= 2 && want <= 4 && tab, "linear table access at %#lx", at);
    for ( level = 4; level > want; --level, tab = frame_of(e) )
    {
        e = *step(tab, va, level);
        if ( !(e & _PAGE_PRESENT) || (level < 4 && (e & _PAGE_PSE)) )
            return -EFAULT;
    }
    *to = *step(tab, va, want);
    return 0;
}

/*
 * In log-dirty mode the CPU walks shadows of the L1 tables.  They are made when
 * first needed, and follow only what Xen writes to a table for the guest.
 */
static unsigned long shadow[NR_FRAMES][512];
static bool shadowed[NR_FRAMES];

void hw_log_dirty(bool on)
{
    domu.paging = on;
    memset(shadowed, 0, sizeof(shadowed));
    flush_tlb_mask(NULL);
}

void hw_shadow_follow(unsigned long tab, unsigned int slot)
{
    if ( shadowed[tab] )
        shadow[tab][slot] = table(tab)[slot];
}

void shadow_remove_all_shadows(struct domain *d, mfn_t mfn)
{
    shadowed[mfn_x(mfn)] = false;
    flush_tlb_mask(NULL);
}

static unsigned long shadow_l1e(unsigned long tab, unsigned long va)
{
    if ( !shadowed[tab] )
        memcpy(shadow[tab], table(tab), PAGE_SIZE);
    shadowed[tab] = true;
    return shadow[tab][l1_table_offset(va)];
}

enum who { USER, XEN };

/* Translates for an access.  True: *frame; false: *ec is the error code. */
static bool translate(unsigned long va, bool write, enum who who,
                      unsigned long *frame, unsigned int *ec)
{
    struct vcpu *v = current;
    struct tlb_entry *t = tlb_slot(v, va);
    unsigned long tab = mfn_x(v->arch.guest_table_user.mfn), e, *p;
    unsigned int level;
    bool rw = true;

    *ec = (write ? PFEC_write_access : 0) | (who == USER ? PFEC_user_mode : 0);

    if ( t->valid && t->va == (va & PAGE_MASK) && (!write || t->rw) )
    {
        *frame = t->frame;
        return true;
    }

    /* A fault, or a walk, drops what was cached. */
    t->valid = false;
    if ( !tab )
        return false;
    for ( level = 4; ; --level, tab = frame_of(e) )
    {
        p = step(tab, va, level);
        e = level == 1 && domu.paging ? shadow_l1e(tab, va) : *p;
        if ( (e & PATH_FLAGS) != PATH_FLAGS )
        {
            *ec |= e & _PAGE_PRESENT ? PFEC_page_present : 0;
            return false;
        }
        rw &= !!(e & _PAGE_RW);
        if ( level == 1 )
            break;
        /* Superpages are not modelled: nobody stores there. */
        if ( level < 4 && (e & _PAGE_PSE) )
            return false;
    }
    if ( write && !rw )
    {
        *ec |= PFEC_page_present;
        return false;
    }
    *p |= _PAGE_ACCESSED | (write ? _PAGE_DIRTY : 0);
    if ( !mfn_valid(_mfn(frame_of(e))) )
        return false;
    *frame = frame_of(e);
    /* Not dirty: a later store has to walk again and set D. */
    t->rw = rw && (*p & _PAGE_DIRTY);
    t->va = va & PAGE_MASK;
    t->frame = *frame;
    t->valid = true;
    return true;
}

/* do_page_fault(): true if the access is to be tried again. */
static bool xen_fault(unsigned long va, unsigned int ec)
{
    struct cpu_user_regs regs = {
        .error_code = ec, .eflags = X86_EFLAGS_IF, .rip = 0x1000, .cs = 0x33,
    };
    struct page_info *held = current->locked_page;
    bool fixed = false;

    hw_faults++;
    if ( cda_may_fix(&domu, va, ec) && current->domain == &domu )
    {
        fixed = cda_fixup_fault(va, &regs);
        trace("cpu%u fault %lx ec %x %s\n", current->id, va, ec,
              fixed ? "fixed" : "forwarded");
        CHECK(current->locked_page == held, "fault handler keeps a lock");
    }
    return fixed;
}

/*
 * Instead of Xen's instruction emulator, which is not part of this: the store
 * that faulted, if it was one by the process.
 */
bool cda_emulate(struct cda_store *store, struct cpu_user_regs *regs)
{
    void (*first)(struct cda_store *, unsigned long) = emul_first;
    struct vcpu *v = current;
    enum cda_stored rc;

    emul_first = NULL;
    if ( first )
        first(store, v->emul.va);
    if ( !v->emul.possible )
        return false;
    rc = cda_store_write(store, v->emul.va, &v->emul.value,
                         sizeof(v->emul.value));
    CHECK((rc == CDA_STORED) == v->emul.done, "store %u", rc);

    return rc == CDA_STORED || rc == CDA_AGAIN;
}

/* The lock of a word log is about to be released. */
void emul_stored(void)
{
    struct vcpu *v = current;
    unsigned long va = v->emul.va, e, tab;
    unsigned int c;

    if ( !v->emul.possible || v->emul.done )
        return;
    CHECK(v->locked_page, "emulated without page_lock()");
    tab = v->locked_page - frame_table;
    e = table(tab)[l1_table_offset(va)];
    CHECK(e & _PAGE_PRESENT, "emulated where nothing is mapped");
    /* Stamps are unique: it is there, or it was refused. */
    if ( *table(frame_of(e)) != v->emul.value )
        return;
    v->emul.done = true;
    /* The table, which is locked, may have moved since it was looked up. */
    for ( c = 0; c < NR_CHUNKS; ++c )
        if ( v->mm->l1[c] == tab )
            va = va_of(c, l1_table_offset(va));
    truth_wrote(v->mm, va, frame_of(e), false);
}

/* One access of up to a page, none of it if @n is 0: 0 or -EFAULT. */
static int access(unsigned long va, void *buf, unsigned int n, bool write,
                  enum who who)
{
    unsigned long frame, outer = current->touching;
    unsigned int tries, ec;
    bool fixed;

    for ( tries = 0; ; ++tries )
    {
        CHECK(tries < 400, "livelock: fault at %#lx for ever", va);
        sched_point();
        if ( translate(va, write, who, &frame, &ec) )
            break;
        /* Granted is as good as written, whatever comes of the access. */
        if ( current->mm )
            truth_touched(current->mm, va & PAGE_MASK, 1);
        current->emul.possible = write && who == USER && n == 8 &&
                                 !(current->arch.flags & TF_kernel_mode);
        current->emul.done = false;
        current->emul.va = va;
        if ( current->emul.possible )
            memcpy(&current->emul.value, buf, n);
        current->touching = va;
        fixed = xen_fault(va, ec);
        current->touching = outer;
        if ( fixed )
        {
            current->emul.possible = false;
            if ( current->emul.done )
                return 0;
            truth_touched(current->mm, va & PAGE_MASK, 1);
            continue;
        }
        current->emul.possible = false;
        /* Xen's own accesses end in its exception table. */
        if ( who == XEN || kern_fault(current->mm, va, write) )
            return -EFAULT;
    }

    if ( write && n )
    {
        memcpy(&phys[frame][va & ~PAGE_MASK], buf, n);
        truth_wrote(current->mm, va, frame, who == XEN);
    }
    else if ( n )
        memcpy(buf, &phys[frame][va & ~PAGE_MASK], n);
    return 0;
}

int hw_store(unsigned long va, uint64_t value)
{
    return access(va & PAGE_MASK, &value, sizeof(value), true, USER);
}

int hw_xen_store(unsigned long va, uint64_t value)
{
    return access(va & PAGE_MASK, &value, sizeof(value), true, XEN);
}

unsigned int copy_fail_rate;

static void may_copy(unsigned long va, bool write)
{
    CHECK(!current->locked_page, "guest memory accessed under page_lock()");
    CHECK(current->spins <= 1, "guest memory accessed under %u locks",
          current->spins);
    CHECK(va < 1UL << 47 || !write, "writes to guest kernel memory: %#lx", va);
    current->user_copies++;
}

/* Pages go while they are copied to. */
static bool copy_fails(void)
{
    return copy_fail_rate && one_in(copy_fail_rate);
}

/*
 * copy_{to,from}_guest_pv(): bytes not copied.  Xen lets through whatever is
 * not its own address space, kernel addresses included.  Others may look, or
 * change what is mapped there, between any two words; of what is long, between
 * any two pages.
 */
static unsigned int copy(unsigned long va, uint8_t *buf, unsigned int n,
                         bool write)
{
    bool words = n <= 256;

    may_copy(va, write);
    while ( n )
    {
        unsigned int part = words ? 8 - (va & 7)
                                  : PAGE_SIZE - (va & ~PAGE_MASK);

        part = part < n ? part : n;
        if ( va >= 1UL << 47 || copy_fails() ||
             access(va, buf, part, write, XEN) )
            return n;
        sched_at("copied");
        va += part;
        buf += part;
        n -= part;
    }
    return 0;
}

unsigned int copy_to_guest_pv(void *to, const void *from, unsigned int n)
{
    return copy((unsigned long)to, (void *)from, n, true);
}

unsigned int copy_from_guest_pv(void *to, const void *from, unsigned int n)
{
    return copy((unsigned long)from, to, n, false);
}

/* One instruction: all of it or nothing, across pages as well. */
int shim_put_guest(unsigned long va, uint64_t value)
{
    unsigned int first = PAGE_SIZE - (va & ~PAGE_MASK), tries, ec;
    unsigned long last = va + sizeof(value) - 1, f[2];

    may_copy(va, true);
    first = first < sizeof(value) ? first : sizeof(value);
    for ( tries = 0; ; ++tries )
    {
        CHECK(tries < 400, "livelock: put_guest() at %#lx for ever", va);
        if ( copy_fails() || access(va, NULL, 0, true, XEN) ||
             access(last, NULL, 0, true, XEN) )
            return -EFAULT;
        if ( translate(va, true, XEN, &f[0], &ec) &&
             translate(last, true, XEN, &f[1], &ec) )
            break;
    }
    memcpy(&phys[f[0]][va & ~PAGE_MASK], &value, first);
    memcpy(phys[f[1]], (uint8_t *)&value + first, sizeof(value) - first);
    truth_wrote(current->mm, va, f[0], true);
    if ( first < sizeof(value) )
        truth_wrote(current->mm, last, f[1], true);
    sched_at("copied");
    return 0;
}
