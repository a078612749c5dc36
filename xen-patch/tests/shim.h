/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What pagefault_cda.c uses of Xen, for user space.  Names and meaning are
 * Xen 4.20's; the implementation is in shim.c, mm.c and hw.c.
 *
 * Every place where another CPU could act in a way that matters is a
 * sched_point(): locks, atomics, ACCESS_ONCE(), barriers, mapping a frame.
 */
#ifndef TESTS_SHIM_H
#define TESTS_SHIM_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "sched.h"

#define CONFIG_CDA 1
#define BITS_PER_LONG 64
#define __init
#define cf_check
#define always_inline inline
#define noinline __attribute__((noinline))
#define asmlinkage
#define __read_mostly
#define __user
#define _AC(x, y) (x ## y)
#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ARRAY_SIZE(x) (sizeof(x) / sizeof((x)[0]))
#define container_of(p, type, member) \
    ((type *)((char *)(p) - offsetof(type, member)))
#define BITS_TO_LONGS(n) (((n) + BITS_PER_LONG - 1) / BITS_PER_LONG)
#define min(a, b) ({ __typeof__(a) a_ = (a); __typeof__(b) b_ = (b); \
                     (void)(&a_ == &b_); a_ < b_ ? a_ : b_; })
#define max(a, b) ({ __typeof__(a) a_ = (a); __typeof__(b) b_ = (b); \
                     (void)(&a_ == &b_); a_ > b_ ? a_ : b_; })
#define ASSERT_UNREACHABLE() CHECK(false, "not reached")
#define ASSERT(x) CHECK(x, "ASSERT(%s)", #x)
#define XENLOG_WARNING ""
#define printk(...) trace(__VA_ARGS__)
#define boolean_param(name, var) struct swallow_semicolon
typedef int (*initcall_t)(void);
#define presmp_initcall(fn) initcall_t shim_initcall = fn
extern initcall_t shim_initcall;

/* Atomics and ordering.  One host thread: what matters is who runs when. */
#define barrier() sched_at("barrier")
#define smp_wmb() sched_point()
#define ACCESS_ONCE(x) (*(sched_point(), (volatile __typeof__(x) *)&(x)))
#define cmpxchg(p, o, n) ({ sched_at("cmpxchg"); \
                            __sync_val_compare_and_swap(p, o, n); })
#define __cmpxchg16b(p, o, n) (*(__uint128_t *)(o)) /* not modelled */
#define cpu_relax() sched_wait()
typedef struct { int counter; } atomic_t;
#define atomic_set(v, i) ((v)->counter = (i))
#define atomic_read(v) (sched_point(), (v)->counter)
#define atomic_add(i, v) ((void)__sync_fetch_and_add(&(v)->counter, i))
#define atomic_sub(i, v) ((void)__sync_fetch_and_sub(&(v)->counter, i))
#define atomic_inc(v) atomic_add(1, v)
#define atomic_dec_and_test(v) (!__sync_sub_and_fetch(&(v)->counter, 1))
#define block_lock_speculation() ((void)0)
/* What speculation must not exceed, nobody may. */
#define array_index_nospec(i, n) ({ __typeof__(i) i_ = (i); \
                                    CHECK(i_ < (n), "index %lu of %lu", \
                                          (unsigned long)i_, \
                                          (unsigned long)(n)); i_; })
void set_bit(unsigned int nr, void *map);
static inline void __set_bit(unsigned int nr, unsigned long *map)
{
    map[nr / 64] |= 1UL << (nr % 64);
}
static inline void __clear_bit(unsigned int nr, unsigned long *map)
{
    map[nr / 64] &= ~(1UL << (nr % 64));
}
static inline bool test_bit(unsigned int nr, const unsigned long *map)
{
    return map[nr / 64] >> (nr % 64) & 1;
}

#ifndef ERESTART
#define ERESTART 85
#endif

/* Time and randomness. */
typedef int64_t s_time_t;
s_time_t NOW(void);
#define MILLISECS(ms) ((s_time_t)(ms) * 1000000)
unsigned int get_random(void);

/* Spinlocks. */
typedef struct { bool held; int8_t owner; const char *name; } spinlock_t;
void shim_lock_init(spinlock_t *l, const char *name);
#define spin_lock_init(l) shim_lock_init(l, #l)
void spin_lock(spinlock_t *l);
bool spin_trylock(spinlock_t *l);
void spin_unlock(spinlock_t *l);
/* Xen's cannot tell whose it is. */
#define spin_is_locked(l) ((l)->held && (l)->owner == (int)current->id)

/* RCU: callbacks run once every vCPU that was reading has stopped. */
struct rcu_head
{
    struct rcu_head *next;
    void (*fn)(struct rcu_head *);
    unsigned int readers;         /* mask of vCPUs */
};
#define DEFINE_RCU_READ_LOCK(x) int x __attribute__((unused))
#define rcu_read_lock(x)   shim_rcu_read_lock()
#define rcu_read_unlock(x) shim_rcu_read_unlock()
void shim_rcu_read_lock(void);
void shim_rcu_read_unlock(void);
#define rcu_dereference(p) ({ sched_point(); (p); })
#define rcu_assign_pointer(p, v) do { sched_point(); (p) = (v); \
                                      sched_point(); } while ( 0 )
void call_rcu(struct rcu_head *head, void (*fn)(struct rcu_head *));
void rcu_poll(void);
void rcu_drain(void);

/* Allocation, which may be told to fail. */
#define xzalloc(type) ((type *)shim_alloc(sizeof(type), 1))
#define xzalloc_array(type, n) ((type *)shim_alloc(sizeof(type), n))
void *shim_alloc(size_t size, unsigned long n);
void xfree(void *p);
/* None of these: vfree() is a shootdown on all CPUs of the host for each page. */
#define xvzalloc(type) NOT_FOR_GUESTS
#define xvzalloc_array(type, n) NOT_FOR_GUESTS
#define vzalloc(n) NOT_FOR_GUESTS
extern unsigned long alloc_bytes;     /* in use */
extern unsigned int alloc_frees;      /* calls of xfree() with memory */
extern unsigned int rcu_most_freed;   /* by one RCU callback */
extern unsigned int alloc_fail_rate;  /* one in so many fails; 0: none */
extern unsigned int alloc_fail_nth;   /* the nth from now fails; 0: none */
extern long alloc_live;

/* Page tables. */
#define PAGE_SHIFT 12
#define PAGE_SIZE  (1UL << PAGE_SHIFT)
#define PAGE_MASK  (~(PAGE_SIZE - 1))
#define PAGE_OFFSET(p) ((unsigned long)(p) & ~PAGE_MASK)
#define PADDR_MASK ((1UL << 52) - 1)
#define L1_PAGETABLE_ENTRIES 512
#define L2_PAGETABLE_ENTRIES 512
#define L2_PAGETABLE_SHIFT   21
#define _PAGE_PRESENT  0x001U
#define _PAGE_RW       0x002U
#define _PAGE_USER     0x004U
#define _PAGE_ACCESSED 0x020U
#define _PAGE_DIRTY    0x040U
#define _PAGE_PSE      0x080U
typedef unsigned long intpte_t;
typedef struct { unsigned long mfn; } mfn_t;
typedef struct { intpte_t l1; } l1_pgentry_t;
typedef struct { intpte_t l2; } l2_pgentry_t;
typedef struct { intpte_t l3; } l3_pgentry_t;
typedef struct { intpte_t l4; } l4_pgentry_t;
#define _mfn(x) ((mfn_t){ x })
#define mfn_x(m) ((m).mfn)
#define mfn_eq(a, b) ((a).mfn == (b).mfn)
#define INVALID_MFN ((mfn_t){ ~0UL })
#define l1e_get_intpte(e) ((e).l1)
#define l2e_get_intpte(e) ((e).l2)
#define pte_flags(x) ((unsigned int)((x) & 0xfff))
#define l3e_get_flags(e) pte_flags((e).l3)
#define l4e_get_flags(e) pte_flags((e).l4)
#define l3e_get_mfn(e) _mfn(((e).l3 & PADDR_MASK) >> PAGE_SHIFT)
#define l3e_get_page(e) mfn_to_page(l3e_get_mfn(e))
#define l1_table_offset(va) (((va) >> 12) & 511)
#define l2_table_offset(va) (((va) >> 21) & 511)
#define l3_table_offset(va) (((va) >> 30) & 511)
#define l4_table_offset(va) (((va) >> 39) & 511)
#define l2_linear_offset(va) (((va) & ((1UL << 48) - 1)) >> 21)
#define l3_linear_offset(va) (((va) & ((1UL << 48) - 1)) >> 30)
#define l4_linear_offset(va) (((va) & ((1UL << 48) - 1)) >> 39)
/* Never dereferenced: get_unsafe() takes the address apart. */
#define LINEAR(level) (0x100000000000UL + ((level) << 40))
#define __linear_l2_table ((l2_pgentry_t *)LINEAR(2UL))
#define __linear_l3_table ((l3_pgentry_t *)LINEAR(3UL))
#define __linear_l4_table ((l4_pgentry_t *)LINEAR(4UL))
int shim_get_linear(unsigned long *to, unsigned long at);
#define get_unsafe(to, p) ({ unsigned long v_ = 0; \
    int r_ = shim_get_linear(&v_, (unsigned long)(p)); \
    memcpy(&(to), &v_, sizeof(v_)); r_; })

/* Frames. */
#define PG_mask(x, idx)   (x ## UL << (BITS_PER_LONG - (idx)))
#define PGT_none          PG_mask(0, 3)
#define PGT_l1_page_table PG_mask(1, 3)
#define PGT_l2_page_table PG_mask(2, 3)
#define PGT_l3_page_table PG_mask(3, 3)
#define PGT_l4_page_table PG_mask(4, 3)
#define PGT_seg_desc_page PG_mask(5, 3)
#define PGT_writable_page PG_mask(7, 3)
#define PGT_type_mask     PG_mask(7, 3)
#define PGT_locked        PG_mask(1, 4)
#define PGT_pinned        PG_mask(1, 5)
#define PGT_validated     PG_mask(1, 6)
#define PGT_partial       PG_mask(1, 8)
#define PGT_count_mask    ((1UL << (BITS_PER_LONG - 9)) - 1)
#define PGC_allocated     PG_mask(1, 1)
#define PGC_extra         PG_mask(1, 3)
#define PGC_count_mask    ((1UL << (BITS_PER_LONG - 6)) - 1)
struct domain;
struct page_info
{
    unsigned long count_info;
    union { struct { unsigned long type_info; } inuse; } u;
    struct domain *owner;
    unsigned int nr_validated_ptes;
    unsigned long stamp;          /* when its type reference went */
};
#define NR_FRAMES 896
extern struct page_info frame_table[NR_FRAMES];
extern uint8_t phys[NR_FRAMES][4096];
struct page_info *mfn_to_page(mfn_t mfn);
mfn_t page_to_mfn(const struct page_info *pg);
static inline bool mfn_valid(mfn_t mfn)
{
    return mfn_x(mfn) && mfn_x(mfn) < NR_FRAMES;
}
#define page_get_owner(pg) ((pg)->owner)
#define is_special_page(pg) (!!((pg)->count_info & PGC_extra))
bool get_page(struct page_info *pg, const struct domain *d);
void put_page(struct page_info *pg);
int get_page_type(struct page_info *pg, unsigned long type);
void put_page_type(struct page_info *pg);
int page_lock(struct page_info *pg);
void page_unlock(struct page_info *pg);
void *map_domain_page(mfn_t mfn);
void unmap_domain_page(const void *p);
#define mfn_to_virt(mfn) NULL     /* nothing is mapped all the time */
#define __map_domain_page(pg) map_domain_page(page_to_mfn(pg))

/* Domains and vCPUs. */
#define NR_VCPUS 3                /* two of the guest, one of Dom0 */
#define DOM0_VCPU 2
typedef uint16_t domid_t;
#define DOMID_INVALID 0x7ff4
typedef struct { mfn_t mfn; } pagetable_t;
#define pagetable_get_mfn(p) ((p).mfn)
#define pagetable_is_null(p) (!mfn_x((p).mfn))
typedef unsigned int cpumask_t;
struct cda_domain;
struct domain
{
    domid_t domain_id;
    bool is_dying, pv, pv32, paging;
    cpumask_t *dirty_cpumask;
    struct { struct cda_domain *cda; } arch;
};
#define TLB_SIZE 32
struct tlb_entry { unsigned long va, frame; bool valid, rw; };
struct mm;
#define TF_kernel_mode 1u
struct vcpu
{
    struct domain *domain;
    unsigned int id;
    struct
    {
        unsigned int flags;
        pagetable_t guest_table_user;
        struct { struct { unsigned long address; } trap_ctxt[256]; } pv;
    } arch;
    /* The harness's. */
    struct tlb_entry tlb[TLB_SIZE];
    struct mm *mm;
    struct page_info *locked_page;
    unsigned int rcu_depth, spins, user_copies, gp_faults;
    bool no_preempt;
    unsigned long touching;       /* where it faults, or changes an entry */
    /* The store which cda_emulate() performs instead of the process. */
    struct { unsigned long va; uint64_t value; bool possible, done; } emul;
};
extern struct vcpu vcpus[NR_VCPUS], *current_vcpu;
extern struct domain domu, dom0, hvm_dom;
#define current current_vcpu
#define is_pv_domain(d) ((d)->pv)
#define is_pv_32bit_domain(d) ((d)->pv32)
#define is_pv_32bit_vcpu(v) ((v)->domain->pv32)
#define guest_kernel_mode(v, r) ((v)->arch.flags & TF_kernel_mode)
#define paging_mode_enabled(d) ((d)->paging)
void shadow_remove_all_shadows(struct domain *d, mfn_t mfn);
struct domain *rcu_lock_domain_by_any_id(domid_t id);
#define rcu_unlock_domain(d) ((void)(d))
void flush_tlb_mask(const cpumask_t *mask);
bool hypercall_preempt_check(void);

/* Traps. */
#define PFEC_page_present 1u
#define PFEC_write_access 2u
#define PFEC_user_mode    4u
#define PFEC_arch_mask    0xffffu
#define X86_EFLAGS_IF     0x200
#define X86_EFLAGS_RF     0x10000
#define in_irq()          false
#define X86_XEC_IDT       2
#define X86_EXC_GP        13
#define _SEGMENT_L        (1u << 21)
struct cpu_user_regs
{
    uint64_t rax, rdi, rsi, rdx, r10, r8, rip, eflags, cs;
    uint32_t error_code, entry_vector;
};

/* Guest memory. */
unsigned int copy_to_guest_pv(void *to, const void *from, unsigned int n);
unsigned int copy_from_guest_pv(void *to, const void *from, unsigned int n);
int shim_put_guest(unsigned long va, uint64_t value);
#define put_guest(x, p) shim_put_guest((unsigned long)(p), x)
#define XEN_GUEST_HANDLE_PARAM(t) struct handle_##t
struct handle_void { void *p; };
struct handle_uint8 { uint8_t *p; };
#define guest_handle_is_null(h) (!(h).p)
#define set_xen_guest_handle(h, v) ((h).p = (v))
unsigned int raw_copy_from_guest(void *to, const void *from, unsigned int n);
unsigned int raw_copy_to_guest(void *to, const void *from, unsigned int n);
#define copy_to_guest_offset(h, off, from, n) \
    raw_copy_to_guest((h).p + (off), from, n)
long hypercall_create_continuation(unsigned int nr, const char *fmt, ...);
#define XSM_PRIV 0
int xsm_cda_op(int action);

/* asm/pv/cda-compat.h */
extern bool shim_fred;            /* no IDT, hence no gate to open */
#define cda_open_gate() (!shim_fred)
void do_general_protection(struct cpu_user_regs *regs);

long do_cda_op(unsigned int cmd, XEN_GUEST_HANDLE_PARAM(void) uarg);
void do_entry_int84(struct cpu_user_regs *regs);

#endif
