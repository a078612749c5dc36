/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * P1, completeness, in terms of what a checkpointing process does: it keeps a
 * copy of every page, refreshed from memory for each page of a list (all of
 * them when the list is lost).  Then, when an operation starts, a page that
 * differs from its copy must be in that operation's list.
 */
#include <stdlib.h>

#include "proc.h"
#include "hw.h"

unsigned int abandon_rate;
static unsigned int in_flight;    /* of them, begin, end, commit, peek */
static unsigned long serial;      /* of calls that change what lists mean */

/* The vCPU must leave the hypervisor as it entered it. */
static void check_exit(void)
{
    CHECK(!current->spins && !current->locked_page && !current->rcu_depth,
          "leaves with %u spinlocks, %s page_lock(), RCU depth %u",
          current->spins, current->locked_page ? "a" : "no",
          current->rcu_depth);
}

long gate_regs(struct cpu_user_regs *regs)
{
    struct cpu_user_regs in = *regs, cmp;
    unsigned int n;

    for ( n = 0; ; ++n )
    {
        CHECK(n < 100000, "operation %lu is restarted for ever",
              (unsigned long)in.rax);
        regs->rip = in.rip + 2;
        do_entry_int84(regs);
        check_exit();
        if ( regs->rip == in.rip + 2 )
            break;
        CHECK(regs->rip == in.rip, "rip %#lx", (unsigned long)regs->rip);
        if ( regs->entry_vector == X86_EXC_GP )
            return -1000;
        CHECK(regs->rax == in.rax, "rax changed across a restart");
        if ( abandon_rate && one_in(abandon_rate) )
        {
            trace("cpu%u mm%td op %lu (%lx) abandoned\n", current->id,
                  current->mm - mms, (unsigned long)in.rax,
                  (unsigned long)in.rsi);
            return ABANDONED;
        }
        sched_point();
    }
    trace("cpu%u mm%td op %lu (%lx %lx) = %ld\n", current->id,
          current->mm - mms, (unsigned long)in.rax, (unsigned long)in.rdi,
          (unsigned long)in.rsi, (long)regs->rax);
    cmp = *regs;
    cmp.rax = in.rax;
    cmp.rip = in.rip;
    /* A ticket that the caller made up may be gone; it gets none in turn. */
    if ( in.r8 && !cmp.r8 && in.rax >= CDA_OP_begin && in.rax <= CDA_OP_peek )
        cmp.r8 = in.r8;
    CHECK(!memcmp(&cmp, &in, sizeof(in)), "a register was not preserved");
    return regs->rax;
}

long gate(uint64_t op, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
          uint64_t e)
{
    struct cpu_user_regs regs = {
        .rax = op, .rdi = a, .rsi = b, .rdx = c, .r10 = d, .r8 = e,
        .rip = 0x1000, .cs = 0x33,
    };

    return gate_regs(&regs);
}

long ctl_as(struct vcpu *v, unsigned int cmd, void *arg)
{
    struct vcpu *was = current_vcpu;
    struct handle_void h = { arg };
    unsigned int n = 0;
    long rc;

    if ( !sched_active() )
        current_vcpu = v;
    CHECK(current_vcpu == v, "on the wrong vCPU");
    while ( (rc = do_cda_op(cmd, h)) == -ERESTART )
    {
        check_exit();
        CHECK(++n < 100000, "control is restarted for ever");
        if ( sched_active() )
            sched_wait();
    }
    check_exit();
    current_vcpu = was;
    return rc;
}

long ctl(unsigned int cmd, void *arg)
{
    return ctl_as(&vcpus[DOM0_VCPU], cmd, arg);
}

uint32_t token_modes;

long add_token(uint8_t first, uint32_t max_ranges, uint64_t max_pages)
{
    struct cda_ctl_token t = {
        .size = sizeof(t), .domid = 1, .tag = 42, .lifetime_ms = 3600000,
        .max_ranges = max_ranges, .max_pages = max_pages, .modes = token_modes,
    };

    memset(t.token, first, sizeof(t.token));
    return ctl(CDA_CTL_add_token, &t);
}

unsigned long io_va(unsigned int slot)
{
    return va_of(IO_CHUNK, slot);
}

int put_user(unsigned long va, const void *buf, unsigned int n)
{
    /* Touch it as the user, then put the bytes behind it. */
    unsigned long *p;

    if ( hw_store(va, 0) )
        return -EFAULT;
    p = walk_l1e(current->mm->l4, va);
    if ( !p || !(*p & _PAGE_PRESENT) )
        return -EFAULT;
    memcpy(&phys[frame_of(*p)][va & ~PAGE_MASK], buf, n);
    truth_wrote(current->mm, va, frame_of(*p), false);
    return 0;
}

int get_user(unsigned long va, void *buf, unsigned int n)
{
    unsigned long *p;
    unsigned int part;

    for ( ; n; n -= part, va += part, buf = (char *)buf + part )
    {
        part = PAGE_SIZE - (va & ~PAGE_MASK);
        part = part < n ? part : n;
        p = walk_l1e(current->mm->l4, va);
        if ( !p || !(*p & _PAGE_PRESENT) )
            return -EFAULT;
        memcpy(buf, &phys[frame_of(*p)][va & ~PAGE_MASK], part);
    }
    return 0;
}

/* Each vCPU has a page for arguments. */
static unsigned long arg_va(void)
{
    return io_va(current->id);
}

static void drop(struct range *r)
{
    free(r->shadow);
    free(r->gen);
    free(r->quiet);
    free(r->word);
    memset(r, 0, sizeof(*r));
}

void proc_forget(struct mm *mm)
{
    unsigned int i;

    for ( i = 0; i < NR_RANGES; ++i )
        drop(&mm->proc.range[i]);
    memset(&mm->proc, 0, sizeof(mm->proc));
}

/* An attach on its way, and what another thread made of its cookie. */
static struct { struct mm *mm; uint64_t told, ended; } attaching[NR_VCPUS];

long proc_attach(struct mm *mm, uint8_t token)
{
    struct cda_attach a = { .size = sizeof(a) };
    unsigned int me = current->id;
    long rc;

    memset(a.token, token, sizeof(a.token));
    if ( put_user(arg_va(), &a, sizeof(a)) )
        return -EFAULT;
    attaching[me].mm = mm;
    attaching[me].told = attaching[me].ended = 0;
    rc = gate(CDA_OP_attach, arg_va(), 0, 0, 0, 0);
    attaching[me].mm = NULL;
    CHECK(!rc || !attaching[me].told, "attach answered %ld, and told a cookie",
          rc);
    if ( rc )
        return rc;
    if ( attaching[me].ended )    /* the other thread's detach was fast */
        return -ENOENT;
    CHECK(!get_user(arg_va(), &a, sizeof(a)), "attach structure is gone");
    CHECK(!a.token[0] && !a.token[15], "the token was not wiped");
    proc_forget(mm);              /* what a detach on its way leaves */
    mm->proc.attached = true;
    mm->proc.cookie = a.cookie;
    return 0;
}

void proc_eager(struct mm *mm)
{
    unsigned int v = !current->id;
    struct cda_register reg = {
        .size = sizeof(reg), .mode = CDA_MODE_PTXEN, .start = va_of(1, 0),
        .pages = 1 + rnd(700), .log = io_va(511), .log_bytes = 64,
    };
    uint64_t cookie;
    long rc;

    if ( attaching[v].mm != mm ||
         get_user(io_va(v) + offsetof(struct cda_attach, cookie), &cookie,
                  sizeof(cookie)) || !cookie )
        return;
    attaching[v].told = cookie;
    if ( one_in(2) )
    {
        if ( put_user(arg_va(), &reg, sizeof(reg)) )
            return;
        rc = gate(CDA_OP_register, cookie, arg_va(), 0, 0, 0);
        if ( rc < 0 )
            return;
        gate(CDA_OP_begin, cookie, rc, 0, 0, 0);
        gate(CDA_OP_unregister, cookie, rc, 0, 0, 0);
    }
    rc = gate(CDA_OP_detach, cookie, 0, 0, 0, 0);
    if ( rc )
        return;
    if ( attaching[v].mm == mm && attaching[v].told == cookie )
        attaching[v].ended = cookie;
    else if ( mm->proc.cookie == cookie )
        proc_forget(mm);
}

unsigned int proc_mode = CDA_MODE_PTXEN;

long proc_register(struct mm *mm, unsigned int i, unsigned long start,
                   unsigned long pages, unsigned long log,
                   unsigned long log_bytes)
{
    struct range *r = &mm->proc.range[i];
    struct cda_register reg = {
        .size = sizeof(reg), .mode = proc_mode, .start = start,
        .pages = pages, .log = log, .log_bytes = log_bytes,
    };
    struct cda_log none = { 0 };
    long rc;

    if ( put_user(arg_va(), &reg, sizeof(reg)) )
        return -EFAULT;
    /* No list of an earlier session there, if it can be helped. */
    if ( !r->used )
        put_user(log, &none, sizeof(none));
    serial++;
    rc = gate(CDA_OP_register, mm->proc.cookie, arg_va(), 0, 0, 0);
    if ( rc < 0 )
        return rc;
    if ( r->used )
        return rc;                /* another thread took the slot */
    trace("mm%td range %u: id %ld at %lx, %lu pages\n", mm - mms, i, rc, start,
          pages);
    if ( !get_user(log, &none, sizeof(none)) )
        r->old_epoch = none.epoch;
    r->used = true;
    r->id = rc;
    r->start = start;
    r->pages = pages;
    r->log = log;
    r->log_bytes = log_bytes;
    r->shadow = calloc(pages, sizeof(*r->shadow));
    r->gen = calloc(pages, sizeof(*r->gen));
    r->quiet = calloc(pages, 1);
    r->word = calloc(pages, sizeof(*r->word));
    return rc;
}

long proc_unregister(struct mm *mm, unsigned int i)
{
    struct range *r = &mm->proc.range[i];
    int id = r->used ? r->id : 0xfffff;
    long rc;

    serial++;
    rc = gate(CDA_OP_unregister, mm->proc.cookie, id, 0, 0, 0);

    if ( !rc && r->used && r->id == id )
        drop(r);
    else if ( r->used && r->id == id )
        memset(r->quiet, 0, r->pages);
    return rc;
}

long proc_detach(struct mm *mm)
{
    uint64_t cookie = mm->proc.cookie;
    unsigned int i;
    long rc;

    serial++;
    rc = gate(CDA_OP_detach, cookie, 0, 0, 0, 0);

    if ( mm->proc.cookie != cookie )
        return rc;                /* somebody attached again already */
    if ( !rc )
        proc_forget(mm);
    else                          /* what was stripped is listed as dirty */
        for ( i = 0; i < NR_RANGES; ++i )
            if ( mm->proc.range[i].used )
                memset(mm->proc.range[i].quiet, 0, mm->proc.range[i].pages);
    return rc;
}

static void refresh(struct mm *mm, struct range *r, unsigned long p)
{
    r->shadow[p] = content(mm, r->start + (p << PAGE_SHIFT));
    r->gen[p]++;
}

/* A foreign or granted frame, which others may write as well. */
static bool shared_page(struct mm *mm, unsigned long va)
{
    unsigned int c, a;

    return find_page(va, &c, &a) && mm->page[c][a].foreign;
}

static bool trackable_page(struct mm *mm, unsigned long va)
{
    return content(mm, va) != ABSENT && !shared_page(mm, va);
}

static uint8_t reported[MAX_RANGE_PAGES];

bool proc_reported(const struct mm *mm, unsigned int r, unsigned long page)
{
    return reported[page];
}

/* Reads the log of a finished operation; false if there is none to read. */
static bool take_list(struct mm *mm, struct range *r, unsigned int op,
                      const uint8_t *was_quiet, const uint32_t *must,
                      bool race, long rc)
{
    struct cda_log h;
    uint64_t e, value, last = 0;
    unsigned long i, n = 0;
    bool lost;

    /* Gone, or replaced by an empty page since. */
    if ( get_user(r->log, &h, sizeof(h)) || !h.entry_bytes )
        return false;
    if ( rc < 0 && (op == CDA_OP_peek || h.epoch <= r->old_epoch) )
        return false;
    if ( h.epoch == r->epoch && (rc < 0 || (race && op != CDA_OP_peek)) )
        return rc >= 0;           /* another thread has read it; not reached */
    CHECK(h.epoch == r->epoch + (op != CDA_OP_peek) ||
          h.epoch > r->epoch, "epoch %lu after %lu", h.epoch, r->epoch);
    /* Another thread's list may have come in between, or over this one. */
    trace("mm%td range id %d: epoch %lu, %lu pages%s\n", mm - mms, r->id,
          h.epoch, h.dirty, h.flags ? " lost" : "");
    lost = (h.flags & CDA_LOG_LOST) || race ||
           h.epoch > r->epoch + (op != CDA_OP_peek);
    if ( op != CDA_OP_peek )
        r->epoch = h.epoch;
    CHECK(h.entry_bytes == 8, "log header");
    CHECK(h.count <= (r->log_bytes - sizeof(h)) / 8, "more than fits");
    /* An abandoned call on all ranges may have finished this one. */
    CHECK(lost || !r->must_lose || rc < 0,
          "a list that was lost is not said to be");

    memset(reported, 0, sizeof(reported));
    for ( i = 0; i < h.count; ++i )
    {
        if ( get_user(r->log + sizeof(h) + 8 * i, &e, 8) )
            break;
        if ( lost && e >= r->pages )
            continue;             /* entries may be what was not written */
        if ( (e >> CDA_ENTRY_KIND_SHIFT & CDA_ENTRY_KIND_MASK) ==
             CDA_ENTRY_WORD )
        {
            CHECK(++i < h.count && !get_user(r->log + sizeof(h) + 8 * i, &value,
                                             8), "half a word entry");
            CHECK(e >> CDA_ENTRY_SIZE_SHIFT == 7, "size");
            e &= CDA_ENTRY_INDEX;
            CHECK(e < r->pages << PAGE_SHIFT && !(e & ~PAGE_MASK), "offset");
            e >>= PAGE_SHIFT;
            last = ~0UL;          /* no pages after words */
            reported[e] |= 1;     /* 2: a page entry as well */
            r->word[e] = value;
            n++;
            continue;
        }
        CHECK(e < r->pages, "entry %lu beyond %lu pages", e, r->pages);
        CHECK(lost || !i || (e > last && last != ~0UL), "entries out of order");
        last = e;
        reported[e] = 2;
        n++;
    }
    CHECK(lost || n == h.dirty, "a full log is not marked lost");
    /* A page of word entries only holds the last of them, or a later store. */
    for ( i = 0; !lost && i < r->pages; ++i )
        CHECK(reported[i] != 1 || !must || must[i] != r->gen[i] + 1 ||
              content(mm, r->start + (i << PAGE_SHIFT)) == r->word[i] ||
              !r->quiet[i], "page %lu: word entries do not add up", i);
    for ( i = 0; i < r->pages; ++i )
    {
        if ( !lost && !reported[i] )
        {
            CHECK(!must || must[i] != r->gen[i] + 1,
                  "page %lu (entry %#lx) changed from %#lx to %#lx and was not "
                  "reported", i,
                  *walk_l1e(mm->l4, r->start + (i << PAGE_SHIFT)),
                  r->shadow[i], content(mm, r->start + (i << PAGE_SHIFT)));
            continue;
        }
        CHECK(lost || !was_quiet || !was_quiet[i] || !r->quiet[i] ||
              !trackable_page(mm, r->start + (i << PAGE_SHIFT)),
              "page %lu was reported and nobody touched it", i);
        /* After peek, what counts is still the list before it. */
        if ( op != CDA_OP_peek )
            refresh(mm, r, i);
    }
    if ( op != CDA_OP_peek && (rc >= 0 || (h.flags & CDA_LOG_LOST)) )
        r->must_lose = false;
    return true;
}

long proc_cycle(struct mm *mm, unsigned int op, unsigned int which)
{
    unsigned int i, first = which == ALL_RANGES ? 0 : which;
    unsigned int last = which == ALL_RANGES ? NR_RANGES : which + 1;
    const struct vcpu *v;
    unsigned long mine, p;
    uint8_t *was[NR_RANGES] = { NULL };
    uint32_t *must[NR_RANGES] = { NULL };
    struct range *r;
    int id[NR_RANGES];
    bool race;
    long rc;

    for ( i = first; i < last; ++i )
    {
        r = &mm->proc.range[i];
        id[i] = r->used ? r->id : -1;
        if ( !r->used )
            continue;
        must[i] = calloc(r->pages, sizeof(*must[i]));
        for ( p = 0; r->based && p < r->pages; ++p )
            if ( content(mm, r->start + (p << PAGE_SHIFT)) != r->shadow[p] &&
                 !shared_page(mm, r->start + (p << PAGE_SHIFT)) )
                must[i][p] = r->gen[p] + 1;
        was[i] = malloc(r->pages);
        memcpy(was[i], r->quiet, r->pages);
        if ( op != CDA_OP_peek )
            memset(r->quiet, r->based || op == CDA_OP_begin, r->pages);
        /* Xen may be at it on another CPU, and be done after the next list. */
        for ( v = vcpus; v < vcpus + NR_VCPUS; ++v )
            if ( v->mm == mm && v->touching )
                truth_touched(mm, v->touching & PAGE_MASK, 1);
    }

    mine = ++serial;
    race = in_flight++;
    rc = gate(op, mm->proc.cookie, which == ALL_RANGES ? CDA_ALL_RANGES
              : id[which] < 0 ? 0xfffff : (uint64_t)id[which], 0, 0, 0);
    race |= mine != serial;
    in_flight--;

    for ( i = first; i < last; ++i )
    {
        r = &mm->proc.range[i];
        if ( !r->used || r->id != id[i] )
            goto next;
        if ( rc == -CDA_EKEYREVOKED || rc == -ENOENT )
            r->based = false;
        else if ( rc == -EFAULT && which != ALL_RANGES )
            r->must_lose = true;
        else if ( rc < 0 && (rc == ABANDONED || which != ALL_RANGES) )
        {
            /* How far it got is unknown: anything may be listed later. */
            memset(r->quiet, 0, r->pages);
            if ( rc == ABANDONED && !race )
                r->must_lose = r->based;
        }
        else if ( op == CDA_OP_begin )
        {
            if ( rc )             /* all ranges, and some did begin */
            {
                memset(r->quiet, 0, r->pages);
                goto next;
            }
            for ( p = 0; p < r->pages; ++p )
                refresh(mm, r, p);
            r->based = true;
        }
        else
        {
            bool got = take_list(mm, r, op, race || rc < 0 ? NULL : was[i],
                                 rc < 0 ? NULL : must[i], race, rc);

            if ( !got )
                memset(r->quiet, 0, r->pages);
            /* A log that cannot be read cannot be trusted either. */
            if ( !got && rc >= 0 && op != CDA_OP_peek )
            {
                for ( p = 0; p < r->pages; ++p )
                    refresh(mm, r, p);
                r->must_lose = false;
            }
            if ( op == CDA_OP_end && (got || rc >= 0) )
                r->based = false;
        }
 next:
        free(was[i]);
        free(must[i]);
    }
    if ( rc == -CDA_EKEYREVOKED )
        mm->proc.revoked = true;
    return rc;
}

long proc_query(struct mm *mm, struct cda_query *q)
{
    long rc;

    memset(q, 0, sizeof(*q));
    q->size = sizeof(*q);
    if ( put_user(arg_va(), q, sizeof(*q)) )
        return -EFAULT;
    rc = gate(CDA_OP_query, mm->proc.cookie, arg_va(), 0, 0, 0);
    if ( !rc )
        CHECK(!get_user(arg_va(), q, sizeof(*q)), "query is gone");
    return rc;
}
