/* SPDX-License-Identifier: MIT */
/*
 * cda.h - application checkpointing straight to the hypervisor.
 *
 * A process in a PV guest declares critical data areas (CDAs) with
 * `int $0x84` and learns, cycle by cycle, which pages were dirtied.
 * Dom0 decides who may: see the control hypercall at the end.
 *
 * Everything is little-endian and fixed-width.  Every structure begins with
 * its own size; fields named `reserved` and undefined flag bits must be zero.
 */
#ifndef __XEN_PUBLIC_CDA_H__
#define __XEN_PUBLIC_CDA_H__

#define CDA_ABI_VERSION        1

/*
 * The gate.  int $CDA_VECTOR from 64-bit user mode of a PV guest.
 *   in:  rax = operation, rdi, rsi, rdx, r10, r8 = arguments
 *   out: rax = result: >= 0, or -errno in Xen's numbering (Linux's, for all
 *        the values used here); every other register is preserved.
 * An operation may be interrupted half-way; the instruction is then executed
 * again and continues.  Unused argument registers must be zero.
 */
#define CDA_VECTOR             0x84

/*
 * Operations.
 *
 * CDA_OP_version   -> CDA_ABI_VERSION | capability bits.  The only operation
 *                  that needs no session.  (With cda=off, or without the
 *                  patch, the guest kernel sees a #GP: SIGSEGV on Linux.)
 * CDA_OP_attach    rdi = struct cda_attach *.  Uses up a token, binds a
 *                  session to this address space, returns 0 and fills
 *                  `cookie`, which every later operation carries.
 *                  -EACCES token unknown, used, expired or another domain's;
 *                  -EEXIST this address space has a session; -ENOSPC quota.
 * CDA_OP_detach    rdi = cookie.  Ends the session and all its ranges.
 * CDA_OP_register  rdi = cookie, rsi = struct cda_register * -> range id >= 0.
 *                  -EINVAL shape, -EEXIST overlap with a range or a log,
 *                  -ENOSPC quota, -EPERM a mode which the token does not allow.
 * CDA_OP_unregister rdi = cookie, rsi = range id.
 * CDA_OP_begin     rdi = cookie, rsi = range id or CDA_ALL_RANGES.  Write-
 *                  protects: everything the first time, later what was
 *                  dirtied since.  -EBUSY a cycle is open, -EPERM frames
 *                  which cannot be tracked.
 * CDA_OP_end       same arguments.  Writes the log of the cycle and closes
 *                  it -> number of dirty pages | CDA_RESULT_LOST.
 *                  -ENODATA no cycle is open, -EFAULT log not writable
 *                  (sticky: the next end/commit reports LOST).
 * CDA_OP_commit    end + begin in one crossing.
 * CDA_OP_peek      writes the log of the open cycle and leaves it open, as
 *                  abort needs it.
 * CDA_OP_query     rdi = cookie, rsi = struct cda_query *.
 *
 * Every operation but version and attach: -ENOENT no session in this address
 * space (never attached, fork child, exec, resumed on another host),
 * -EACCES wrong cookie, -EKEYREVOKED the administrator ended the session,
 * -EAGAIN another thread is inside an operation of this session, or memory
 * that was unregistered is not free yet: retry,
 * -EOPNOTSUPP not from a 32-bit process / domain in log-dirty mode.
 */
#define CDA_OP_version         0
#define CDA_OP_attach          1
#define CDA_OP_detach          2
#define CDA_OP_register        3
#define CDA_OP_unregister      4
#define CDA_OP_begin           5
#define CDA_OP_end             6
#define CDA_OP_commit          7
#define CDA_OP_peek            8
#define CDA_OP_query           9

/* Result of CDA_OP_version: bits 0-15 version, bits 16-47 capabilities. */
#define CDA_CAP_PTXEN          (1ULL << 16)
#define CDA_CAP_EMULXEN        (1ULL << 17)
#define CDA_CAP_SCANXEN        (1ULL << 18)
#define CDA_CAP_AUTOXEN        (1ULL << 19)

#define CDA_ALL_RANGES         (~0ULL)
#define CDA_RESULT_LOST        (1ULL << 62) /* some log of the cycle is lost */
#define CDA_RESULT_COUNT       0xffffffffULL

#define CDA_EKEYREVOKED        128          /* Linux's number; Xen has none */

#define CDA_TOKEN_BYTES        16

struct cda_attach {
    uint32_t size;                   /* sizeof(struct cda_attach) */
    uint32_t flags;                  /* 0 */
    uint8_t  token[CDA_TOKEN_BYTES]; /* wiped by Xen when consumed */
    uint64_t cookie;                 /* OUT */
    uint64_t max_pages;              /* OUT: pages this session may track */
    uint64_t reserved[3];
};

/*
 * How pages are tracked.  Bit 1 << mode stands for one in a mask.
 *
 * PTXEN    a page is write-protected, and its first write faults.
 * EMULXEN  a page stays write-protected; Xen performs each store of the
 *          process and logs it as a word entry.  What it cannot perform (by
 *          the kernel, across pages, wider than 16 bytes, x87, single-stepped)
 *          or log (more than 2048 stores in a cycle) makes it a page entry.
 * SCANXEN  pages stay writable; their D bits are cleared and looked at, all
 *          of them in every cycle.
 * AUTOXEN  page by page the cheaper of the two, by what the page did lately.
 *
 * Where D is looked at (SCANXEN, AUTOXEN), writes which the guest kernel
 * performs through another mapping of the page (ptrace, process_vm_writev,
 * direct I/O) are missed, and the guest kernel sees pages as clean which are
 * not.  So: only anonymous memory, locked (mlock) until it is unregistered,
 * kept out of forks.  Who does not keep to that harms his own data only.
 */
#define CDA_MODE_PTXEN         1
#define CDA_MODE_EMULXEN       2
#define CDA_MODE_SCANXEN       3
#define CDA_MODE_AUTOXEN       4

struct cda_register {
    uint32_t size;                   /* sizeof(struct cda_register) */
    uint32_t mode;                   /* CDA_MODE_* */
    uint64_t flags;                  /* 0 */
    uint64_t start;                  /* page-aligned, below 2^47 */
    uint64_t pages;                  /* > 0 */
    uint64_t log;                    /* struct cda_log *, 64-byte aligned,
                                        outside every range */
    uint64_t log_bytes;              /* header and entries, >= header */
    uint64_t reserved[2];
};

/*
 * The log lives in the application's memory: this header, then `count`
 * times 8 bytes of entries.  It is written by end, commit and peek only, entries
 * first, header last, and of that the epoch last, in one store; it must be
 * present and writable then (touch it, mlock it, keep it out of forks).
 */
#define CDA_LOG_LOST           1u    /* list incomplete: count all as dirty */

struct cda_log {
    uint64_t epoch;                  /* cycles finished on this range */
    uint64_t count;                  /* 8-byte units that follow */
    uint64_t dirty;                  /* entries found, more if the log is full */
    uint32_t flags;                  /* CDA_LOG_* */
    uint32_t entry_bytes;            /* 8 */
    uint64_t reserved[4];
    /* uint64_t entry[]: see below */
};

/*
 * Entries.  Bits 52-55 are the kind.
 *   CDA_ENTRY_PAGE  bits 0-51 page index in the range.
 *   CDA_ENTRY_WORD  bits 0-51 byte offset in the range, bits 56-59 size - 1
 *                   (sizes 1, 2, 4, 8); the next 8 bytes are the value that
 *                   was stored, zero-extended.  In the order of the stores.
 *                   Of a page with a page entry in the list, the content
 *                   counts: it may have changed after the last store.
 * `count` is in units of 8 bytes; `dirty` counts entries of either kind.
 */
#define CDA_ENTRY_INDEX        ((1ULL << 52) - 1)
#define CDA_ENTRY_KIND_SHIFT   52
#define CDA_ENTRY_KIND_MASK    15
#define CDA_ENTRY_SIZE_SHIFT   56
#define CDA_ENTRY_PAGE         0
#define CDA_ENTRY_WORD         1

/* Event counts, of a session or of a domain since it was created. */
struct cda_counters {
    uint64_t crossings;              /* operations entered, restarts included */
    uint64_t restarts;               /* ... of which continued an earlier one */
    uint64_t faults_fixed;           /* first writes granted again by Xen */
    uint64_t faults_forwarded;       /* tracked page, left to the guest kernel */
    uint64_t faults_spurious;        /* entry was writable already */
    uint64_t faults_xen;             /* of faults_fixed: Xen's own writes */
    uint64_t guest_updates;          /* tracked entries rewritten by the guest */
    uint64_t write_protected;        /* entries made read-only */
    uint64_t walks;                  /* whole 2 MiB chunks walked */
    uint64_t forks;                  /* authority stripped for a fork */
    uint64_t flushes;                /* TLB shootdowns asked for */
    uint64_t cycles;                 /* ends and commits */
    uint64_t watched;                /* writes found in D instead of a fault */
    uint64_t heated;                 /* AUTOXEN: pages left writable from now */
    uint64_t cooled;                 /* ... and protected again */
    uint64_t emulated;               /* stores performed by Xen */
    uint64_t degraded;               /* stores which could not be: page entry */
    uint64_t reserved;
};

struct cda_query {
    uint32_t size;                   /* sizeof(struct cda_query) */
    uint32_t flags;                  /* 0 */
    uint64_t session;                /* OUT: id the administrator sees */
    uint64_t pages;                  /* OUT: registered now */
    uint64_t max_pages;              /* OUT */
    uint32_t ranges;                 /* OUT */
    uint32_t max_ranges;             /* OUT */
    uint64_t reserved[2];
    struct cda_counters counters;    /* OUT */
};

/*
 * Control, for the privileged domain only: hypercall __HYPERVISOR_cda_op,
 * arguments (uint32_t cmd, void *arg).  0 or -errno.
 */
#define __HYPERVISOR_cda_op    55    /* __HYPERVISOR_arch_7 */

#define CDA_CTL_version        0     /* arg NULL -> as CDA_OP_version */
#define CDA_CTL_add_token      1     /* struct cda_ctl_token * */
#define CDA_CTL_revoke         2     /* struct cda_ctl_revoke * */
#define CDA_CTL_set_limits     3     /* struct cda_ctl_limits * */
#define CDA_CTL_get_limits     4     /* struct cda_ctl_limits * */
#define CDA_CTL_list           5     /* struct cda_ctl_list * */
#define CDA_CTL_counters       6     /* struct cda_ctl_counters * */

/* A token lets one process of `domid` attach once before it expires. */
struct cda_ctl_token {
    uint32_t size;
    uint32_t domid;
    uint8_t  token[CDA_TOKEN_BYTES];
    uint64_t tag;                    /* administrator's, e.g. the key; not 0 */
    uint32_t lifetime_ms;            /* 1 .. 3600000 */
    uint32_t max_ranges;             /* per session; 0: the domain's default */
    uint64_t max_pages;              /* per session; 0: the domain's default */
    uint32_t max_sessions;           /* live with this tag; 0: domain's only */
    uint32_t modes;                  /* 1 << CDA_MODE_*, or'ed; 0: all */
};

/* Drops tokens and ends sessions: by tag, by session, or (both 0) all. */
struct cda_ctl_revoke {
    uint32_t size;
    uint32_t domid;
    uint64_t tag;
    uint64_t session;
    uint32_t tokens;                 /* OUT: tokens dropped */
    uint32_t sessions;               /* OUT: sessions ended */
};

#define CDA_LIMIT_FORWARD      1u    /* never grant in Xen: log and forward */

struct cda_ctl_limits {
    uint32_t size;
    uint32_t domid;
    uint32_t flags;                  /* CDA_LIMIT_* */
    uint32_t max_sessions;
    uint64_t max_pages;              /* all sessions of the domain together */
    uint32_t max_ranges;             /* per session */
    uint32_t max_tokens;             /* outstanding */
    uint64_t used_pages;             /* OUT */
    uint32_t used_sessions;          /* OUT */
    uint32_t used_tokens;            /* OUT */
};

struct cda_ctl_session {
    uint64_t session;
    uint64_t tag;
    uint64_t pages;
    uint64_t age_ms;
    uint32_t ranges;
    uint32_t flags;                  /* CDA_SESSION_* */
    struct cda_counters counters;
};

#define CDA_SESSION_ENDED      1u    /* revoked; the process still lives */

struct cda_ctl_list {
    uint32_t size;
    uint32_t domid;
    uint64_t buffer;                 /* struct cda_ctl_session * */
    uint32_t capacity;               /* entries */
    uint32_t count;                  /* OUT: entries written */
    uint32_t total;                  /* OUT: sessions there are */
    uint32_t reserved;
};

struct cda_ctl_counters {
    uint32_t size;
    uint32_t domid;
    struct cda_counters counters;    /* OUT: ended sessions included */
};

#endif /* __XEN_PUBLIC_CDA_H__ */
