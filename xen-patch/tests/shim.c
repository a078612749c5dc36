/* SPDX-License-Identifier: GPL-2.0-only */
/* Locks, RCU, allocation, Dom0's memory, domains.  See shim.h. */
#include <stdarg.h>
#include <malloc.h>
#include <stdlib.h>

#include "guest.h"
#include "hw.h"
#include "build/cda.h"

struct vcpu vcpus[NR_VCPUS], *current_vcpu = &vcpus[0];
static cpumask_t all_cpus = ~0u;
struct domain domu = { .domain_id = 1, .pv = true,
                       .dirty_cpumask = &all_cpus };
struct domain dom0 = { .domain_id = 0, .pv = true,
                       .dirty_cpumask = &all_cpus };
struct domain hvm_dom = { .domain_id = 7, .dirty_cpumask = &all_cpus };

static s_time_t now = 1;
s_time_t NOW(void)
{
    return now += 1000;
}

unsigned int get_random(void)
{
    static unsigned int x = 0x2545f491;

    return x = x * 1664525 + 1013904223;
}

void set_bit(unsigned int nr, void *map)
{
    sched_at("set_bit");
    __sync_fetch_and_or((unsigned long *)map + nr / 64, 1UL << (nr % 64));
}

void shim_lock_init(spinlock_t *l, const char *name)
{
    l->held = false;
    l->name = name;
}

/* hash_lock is the innermost; cda->lock nests in nothing but s->lock. */
static bool innermost(const spinlock_t *l)
{
    return strstr(l->name, "hash_lock");
}

static spinlock_t *inner_held[NR_VCPUS];

bool spin_trylock(spinlock_t *l)
{
    sched_at("lock");
    if ( l->held )
        return false;
    l->held = true;
    l->owner = current->id;
    current->spins++;
    return true;
}

void spin_lock(spinlock_t *l)
{
    CHECK(!l->held || l->owner != (int)current->id,
          "vCPU %u takes %s twice", current->id, l->name);
    CHECK(!strstr(l->name, "&s->lock"),
          "waits for a lock that may only be tried: %s", l->name);
    CHECK(!inner_held[current->id], "%s taken inside %s", l->name,
          inner_held[current->id]->name);
    if ( strstr(l->name, "cda->lock") )
        CHECK(!current->locked_page || !strcmp(l->name, ""),
              "%s taken under page_lock()", l->name);
    while ( !spin_trylock(l) )
        sched_wait();
    if ( innermost(l) )
        inner_held[current->id] = l;
}

void spin_unlock(spinlock_t *l)
{
    if ( strstr(l->name, "words") )
        emul_stored();
    CHECK(l->held && l->owner == (int)current->id, "unlocks %s, not held",
          l->name);
    if ( inner_held[current->id] == l )
        inner_held[current->id] = NULL;
    l->held = false;
    current->spins--;
    sched_at("unlock");
}

/*
 * RCU.  The vCPU that queues a callback counts as reading until it leaves
 * its section, or the hypervisor if it is in none (see rcu_poll()).
 */
static struct rcu_head *rcu_queue;
static bool rcu_running;

void shim_rcu_read_lock(void)
{
    current->rcu_depth++;
    sched_point();
}

void shim_rcu_read_unlock(void)
{
    struct rcu_head *h;

    CHECK(current->rcu_depth, "rcu_read_unlock() without lock");
    if ( !--current->rcu_depth )
        for ( h = rcu_queue; h; h = h->next )
            h->readers &= ~(1u << current->id);
    sched_point();
}

void call_rcu(struct rcu_head *head, void (*fn)(struct rcu_head *))
{
    unsigned int i;

    for ( i = 0, head->readers = 0; i < NR_VCPUS; ++i )
        if ( vcpus[i].rcu_depth )
            head->readers |= 1u << i;
    head->fn = fn;
    head->next = rcu_queue;
    rcu_queue = head;
}

static void run_callbacks(bool all)
{
    struct rcu_head **pp = &rcu_queue, *h;

    if ( rcu_running )
        return;
    rcu_running = true;
    while ( (h = *pp) != NULL )
        if ( h->readers && !all )
            pp = &h->next;
        else
        {
            unsigned int freed = alloc_frees;

            *pp = h->next;
            h->fn(h);
            if ( alloc_frees - freed > rcu_most_freed )
                rcu_most_freed = alloc_frees - freed;
            /* It may have queued another. */
            pp = &rcu_queue;
        }
    rcu_running = false;
}

/* Other vCPUs' callbacks, while this one holds no lock of its own. */
void rcu_poll(void)
{
    if ( rcu_queue && !current->spins && !current->rcu_depth &&
         !current->locked_page )
        run_callbacks(false);
}

void rcu_drain(void)
{
    unsigned int i;

    for ( i = 0; i < NR_VCPUS; ++i )
        CHECK(!vcpus[i].rcu_depth, "vCPU %u still reads under RCU", i);
    run_callbacks(true);
}

unsigned long alloc_bytes;
unsigned int alloc_fail_rate, alloc_fail_nth, alloc_frees, rcu_most_freed;
long alloc_live;

void *shim_alloc(size_t size, unsigned long n)
{
    void *p;

    CHECK(!current->locked_page && !inner_held[current->id],
          "allocates under a lock");
    /* See alloc_pieces(). */
    CHECK(size * n <= PAGE_SIZE || current->domain == &dom0,
          "a process has Xen allocate %lu bytes in one piece", size * n);
    if ( size && n > UINT32_MAX / size )
        return NULL;
    if ( alloc_fail_nth && !--alloc_fail_nth )
        return NULL;
    if ( alloc_fail_rate && one_in(alloc_fail_rate) )
        return NULL;
    p = calloc(n, size);
    CHECK(p, "host out of memory");
    alloc_live++;
    alloc_bytes += malloc_usable_size(p);
    return p;
}

void xfree(void *p)
{
    if ( p )
    {
        alloc_live--;
        alloc_bytes -= malloc_usable_size(p);
        alloc_frees++;
    }
    free(p);
}

/* Domains, and Dom0's memory: host pointers; the first page does not exist. */
struct domain *rcu_lock_domain_by_any_id(domid_t id)
{
    return id == domu.domain_id ? &domu : id == hvm_dom.domain_id ? &hvm_dom
           : id == dom0.domain_id ? &dom0 : NULL;
}

unsigned int dom0_copy_fails;

static bool dom0_faults(const void *p)
{
    CHECK(!current->locked_page && !inner_held[current->id] &&
          !current->spins, "accesses Dom0's memory under a lock");
    return (uintptr_t)p < PAGE_SIZE ||
           (dom0_copy_fails && !--dom0_copy_fails);
}

unsigned int raw_copy_from_guest(void *to, const void *from, unsigned int n)
{
    if ( dom0_faults(from) )
        return n;
    memcpy(to, from, n);
    return 0;
}

unsigned int raw_copy_to_guest(void *to, const void *from, unsigned int n)
{
    if ( dom0_faults(to) )
        return n;
    memcpy(to, from, n);
    return 0;
}

long hypercall_create_continuation(unsigned int nr, const char *fmt, ...)
{
    CHECK(nr == 55 && !strcmp(fmt, "ih"), "continuation of another call");
    return -ERESTART;
}

int xsm_cda_op(int action)
{
    return current->domain == &dom0 ? 0 : -EPERM;
}

bool shim_fred;

void do_general_protection(struct cpu_user_regs *regs)
{
    CHECK(regs->entry_vector == X86_EXC_GP && regs->error_code == 0x422,
          "#GP error code %#x", regs->error_code);
    current->gp_faults++;
}

/* The CPU is wanted elsewhere: with what probability. */
unsigned int preempt_rate;
bool hypercall_preempt_check(void)
{
    sched_at("preempt");
    return preempt_rate && !current->no_preempt && one_in(preempt_rate);
}
