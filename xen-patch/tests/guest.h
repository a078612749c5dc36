/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest kernel that treats page tables as Linux on Xen does, as far as it
 * matters here: what it reads in entries, what it writes, in which order, and
 * what it skips because an entry looks clean or read-only.
 */
#ifndef TESTS_GUEST_H
#define TESTS_GUEST_H

#include "shim.h"
#include "mm.h"

/*
 * The part of a process's address space that is modelled: NR_CHUNKS chunks of
 * 2 MiB, the first two at the end of a GiB (another L2 table), in each some
 * pages at either end.  The last chunk is for logs and arguments.
 */
#define NR_CHUNKS  6
#define DATA_CHUNKS 5
#define IO_CHUNK   5
#define NR_ACTIVE  7
#define NR_MMS     4
#define VA_BASE    (0x40000000UL - (2UL << 21))
#define CHUNK_BYTES (1UL << 21)

extern const unsigned int active_slot[NR_ACTIVE];

static inline unsigned long va_of(unsigned int chunk, unsigned int slot)
{
    return VA_BASE + chunk * CHUNK_BYTES + ((unsigned long)slot << PAGE_SHIFT);
}

struct mutex { bool held; };
void mutex_lock(struct mutex *m);
void mutex_unlock(struct mutex *m);

struct vpage
{
    bool vma, vma_w;              /* mapped; writable by the user's request */
    bool shared, foreign;         /* file page; other domain's or a grant */
    bool stored;                  /* something happened since the last list */
    uint64_t expect;              /* what the process must read there */
};

#define NR_RANGES 4
#define MAX_RANGE_PAGES (DATA_CHUNKS * 512)

struct range                      /* what the process knows: see proc.c */
{
    bool used;
    int id;
    unsigned long start, pages, log, log_bytes;
    uint64_t epoch, old_epoch;    /* seen last; left by somebody else */
    bool based;                   /* shadow is valid: a cycle is open */
    bool must_lose;               /* the next list has to be reported lost */
    uint64_t *shadow;             /* contents as of the last list */
    uint32_t *gen;                /* how often the copy was refreshed */
    uint8_t *quiet;               /* not touched by anybody since */
    uint64_t *word;               /* last word entry of each page */
};

struct proc
{
    bool attached, revoked;
    uint64_t cookie;
    struct range range[NR_RANGES];
};

struct mm
{
    bool live;
    unsigned int users;           /* vCPUs that run it */
    /* Linux has two roots: the kernel's, pinned first, and the user's. */
    unsigned long kernel_l4, l4, l3, l2[2], l1[NR_CHUNKS];
    struct mutex lock;            /* mmap_lock and the page table lock */
    struct vpage page[NR_CHUNKS][NR_ACTIVE];
    bool filled[NR_CHUNKS];       /* zero page in all other slots */
    bool dontfork[NR_CHUNKS];     /* madvise() */
    struct proc proc;
};

extern struct mm mms[NR_MMS];
extern unsigned long zero_frame, foreign_frame, mmio_frame;
extern unsigned int free_frames;

void guest_reset(void);
struct mm *mm_new(void);          /* NULL: out of frames */
struct mm *mm_fork(struct mm *parent);
/* Does something to the next new address space before it is pinned. */
extern void (*mm_before_pin)(struct mm *mm);
void mm_exit(struct mm *mm);      /* no vCPU runs it any more */
void mm_load(struct vcpu *v, struct mm *mm);

int kern_fault(struct mm *mm, unsigned long va, bool write);
void kern_map(struct mm *mm, unsigned int c, unsigned int a, bool w);
void kern_unmap(struct mm *mm, unsigned int c, unsigned int a);
void kern_protect(struct mm *mm, unsigned int c, unsigned int a, bool w);
void kern_make_clean(struct mm *mm, unsigned int c, unsigned int a);
void kern_migrate(struct mm *mm, unsigned int c, unsigned int a);
void kern_age(struct mm *mm, unsigned int c, unsigned int a);
void kern_gup_write(struct mm *mm, unsigned int c, unsigned int a,
                    uint64_t value);
void kern_map_zero(struct mm *mm, unsigned int c, unsigned int a);
void kern_map_foreign(struct mm *mm, unsigned int c, unsigned int a, bool io);
void kern_grant(struct mm *mm, unsigned int c, unsigned int a, bool map);
bool kern_ksm(struct mm *x, unsigned int cx, unsigned int ax,
              struct mm *y, unsigned int cy, unsigned int ay);
void kern_move_table(struct mm *mm, unsigned int from, unsigned int to);
void kern_recreate_table(struct mm *mm, unsigned int c);
void kern_l2_readonly(struct mm *mm, unsigned int c, bool ro);
void kern_fill(struct mm *mm, unsigned int c);

unsigned long frame_alloc(void);
void frame_get(unsigned long f);
void frame_drop(unsigned long f);
unsigned long *pte_of(struct mm *mm, unsigned int c, unsigned int slot);
void set_pte(struct mm *mm, unsigned int c, unsigned int slot,
             unsigned long val, bool preserve_ad);
unsigned long take_pte(struct mm *mm, unsigned int c, unsigned int slot);
bool find_page(unsigned long va, unsigned int *c, unsigned int *a);

/* truth.c */
#define ABSENT 0xab5e47ab5e47ab5eULL
uint64_t content(const struct mm *mm, unsigned long va);
void truth_wrote(struct mm *mm, unsigned long va, unsigned long frame,
                 bool by_xen);
void truth_touched(struct mm *mm, unsigned long va, unsigned long pages);
void truth_check(void);           /* P2 and P3, at rest */
uint64_t next_stamp(void);

#endif
