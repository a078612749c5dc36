/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * hvckpt.h - critical data areas for C programs.
 *
 * Declare memory, change it inside transactions, learn which pages were
 * dirtied.  Link with -lhvckpt.
 *
 *     struct hvckpt_options o = HVCKPT_OPTIONS_INIT;
 *     hvckpt_region *r;
 *     struct hvckpt_dirty d;
 *     o.bytes = 1 << 20;
 *     if (hvckpt_register_cda(&o, &r) < 0)
 *         errx(1, "%s", hvckpt_last_error());
 *     hvckpt_begin(r);
 *     memset(hvckpt_memory(r), 1, 10);
 *     hvckpt_commit(r, &d);          // d.pages[0] == 0, d.count == 1
 *     hvckpt_unregister(r);
 *
 * Functions which return int return 0 (or a value which is not negative), or
 * one of enum hvckpt_error; hvckpt_last_error() then says more.  They may be
 * called from any thread, but not from signal handlers.
 *
 * What is promised: every page whose content changed while a transaction was
 * open is in its list (a write which races with the commit: in the next one).
 * Lists may name more pages.  Exceptions of a tracker: hvckpt_get_limits().
 */
#ifndef HVCKPT_H
#define HVCKPT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HVCKPT_PAGE_SIZE 4096
#define HVCKPT_TOKEN_BYTES 16
/* Environment variables: the key file, and the policy daemon's host:port. */
#define HVCKPT_ENV_KEY "HVCKPT_KEY"
#define HVCKPT_ENV_POLICY "HVCKPT_POLICY"

enum hvckpt_error {
    HVCKPT_OK = 0,
    HVCKPT_E_INVALID = -1,          /* invalid argument */
    HVCKPT_E_OS = -2,               /* a system call failed */
    HVCKPT_E_INTERNAL = -3,         /* a defect of the library */
    HVCKPT_E_NO_CHOICE = -4,        /* no tracker was chosen */

    /* There is no way to the hypervisor. */
    HVCKPT_E_NOT_XEN = -10,         /* not a Xen guest */
    HVCKPT_E_GUEST_TYPE = -11,      /* this type of guest has no gate */
    HVCKPT_E_NO_GATE = -12,         /* Xen without the patch, or cda=off */
    HVCKPT_E_ABI_VERSION = -13,     /* another version of the ABI */
    HVCKPT_E_NO_CAPABILITY = -14,   /* tracker not offered */
    HVCKPT_E_UNSUPPORTED = -15,     /* 32-bit process, or domain in migration */

    /* There is no right to it. */
    HVCKPT_E_NO_KEY = -20,          /* HVCKPT_KEY is not set */
    HVCKPT_E_NO_POLICY = -21,       /* HVCKPT_POLICY is not set */
    HVCKPT_E_KEY_UNREADABLE = -22,  /* the key file cannot be read */
    HVCKPT_E_KEY_INVALID = -23,     /* wrong content or permissions */
    HVCKPT_E_UNREACHABLE = -24,     /* no policy daemon answers */
    HVCKPT_E_NOT_AUTHENTIC = -25,   /* not the daemon the key belongs to */
    HVCKPT_E_PROTOCOL = -26,        /* the daemon speaks otherwise */
    HVCKPT_E_KEY_REFUSED = -27,     /* revoked, expired, unknown ... */
    HVCKPT_E_TOKEN_REFUSED = -28,   /* used, expired, another domain's */
    HVCKPT_E_QUOTA = -29,           /* sessions, pages or ranges */
    HVCKPT_E_FOREIGN_SESSION = -30, /* other code here has a session */

    /* The session is gone. */
    HVCKPT_E_FORK_CHILD = -40,      /* this is a fork child */
    HVCKPT_E_NOT_ATTACHED = -41,    /* no session, as after a migration */
    HVCKPT_E_REVOKED = -42,         /* the administrator ended it */
    HVCKPT_E_STOLEN = -43,          /* other code attached anew */
    HVCKPT_E_BUSY = -44,            /* another thread stays inside */

    /* The region. */
    HVCKPT_E_NO_ALIAS = -48,        /* needs memory of the library's own */
    HVCKPT_E_SOFT_DIRTY = -49,      /* not in this kernel, or unreliable */
    HVCKPT_E_EMPTY = -50,           /* no size given */
    HVCKPT_E_UNALIGNED = -51,       /* not whole pages */
    HVCKPT_E_TOO_LARGE = -52,
    HVCKPT_E_OVERLAP = -53,         /* with another region or a log */
    HVCKPT_E_UNTRACKABLE = -54,     /* granted, foreign or special pages */
    HVCKPT_E_LOCK_LIMIT = -55,      /* RLIMIT_MEMLOCK */
    HVCKPT_E_NO_TRACKER = -56,      /* none of the list works */
    HVCKPT_E_UFFD = -57,            /* no userfaultfd or PAGEMAP_SCAN */
    HVCKPT_E_HANDLER = -58,         /* signal handler was replaced */
    HVCKPT_E_SHAPE = -59,           /* refused by the hypervisor */
    HVCKPT_E_MODE = -70,            /* the key does not allow this tracker */
    HVCKPT_E_NEEDS_LOCK = -71,      /* this tracker needs locked memory */

    /* The transaction. */
    HVCKPT_E_ALREADY_OPEN = -60,
    HVCKPT_E_NOT_OPEN = -61,
    HVCKPT_E_IN_USE = -62,          /* another thread is beginning or ending */
    HVCKPT_E_LOG_FAULT = -63,       /* count every page as dirty */
};

/* Numbers of trackers. */
enum {
    HVCKPT_PTXEN = 1,               /* the hypervisor */
    HVCKPT_PT = 2,                  /* mprotect and SIGSEGV */
    HVCKPT_PAGEMAP_SCAN = 3,        /* userfaultfd WP_ASYNC, PAGEMAP_SCAN */
    HVCKPT_SIM = 4,                 /* simulated, for tests */
    HVCKPT_EMULXEN = 5,             /* the hypervisor performs stores */
    HVCKPT_SCANXEN = 6,             /* the hypervisor, dirty bits; locked only */
    HVCKPT_AUTOXEN = 7,             /* page by page the cheaper; locked only */
    HVCKPT_EMUL = 10,               /* stores performed in a SIGSEGV handler */
    HVCKPT_UFFD_WP = 11,            /* userfaultfd write protection, SIGBUS */
    HVCKPT_SOFT_DIRTY = 12,         /* soft-dirty bits */
};

/* Whether pages are locked in memory. */
enum {
    HVCKPT_LOCK_REQUIRED = 0,       /* or there is no region */
    HVCKPT_LOCK_IF_ALLOWED = 1,
    HVCKPT_LOCK_NEVER = 2,
};

/* Initialise with HVCKPT_OPTIONS_INIT; zero means the default. */
struct hvckpt_options {
    size_t size;                    /* sizeof(struct hvckpt_options) */
    size_t bytes;                   /* of the area, rounded up to pages */
    void *memory;                   /* NULL: allocate.  Otherwise private
                                       anonymous writable memory, whole pages,
                                       which stays mapped and unmoved */
    const int *trackers;            /* to be tried in this order */
    size_t tracker_count;           /* 0: HVCKPT_PTXEN */
    int lock;                       /* HVCKPT_LOCK_* */
    unsigned int timeout_ms;        /* for the policy daemon; 0: 10 s */
    const char *key;                /* key file; NULL: HVCKPT_KEY */
    const char *policy;             /* host:port; NULL: HVCKPT_POLICY */
    const unsigned char *token;     /* a token obtained elsewhere, or NULL */
    size_t log_entries;             /* 0: one per page */
};

#define HVCKPT_OPTIONS_INIT { .size = sizeof(struct hvckpt_options) }

typedef struct hvckpt_region hvckpt_region;

/* Pages dirtied in a cycle. */
struct hvckpt_dirty {
    const uint64_t *pages;          /* indices in the region, each once; NULL if
                                       lost.  Valid until the next commit,
                                       peek or end on the region */
    size_t count;                   /* dirty pages; if lost, all there are */
    int lost;                       /* the list is not known: all are dirty */
};

/* Allocates or adopts the memory, makes it present, locks it, keeps it out of
 * forks, has it watched. */
int hvckpt_register_cda(const struct hvckpt_options *options,
                        hvckpt_region **out);
/* Unmaps the memory, unless it was adopted.  NULL is fine.  In a fork child
 * this touches neither the session nor the memory. */
int hvckpt_unregister(hvckpt_region *region);

void *hvckpt_memory(const hvckpt_region *region);
size_t hvckpt_pages(const hvckpt_region *region);
/* The tracker it got. */
int hvckpt_tracker(const hvckpt_region *region);
/* 1: the pages are locked in memory. */
int hvckpt_locked(const hvckpt_region *region);
/* Why the index-th tracker of the list did not work, and which it was; NULL
 * after the last which did not. */
const char *hvckpt_attempt(const hvckpt_region *region, size_t index,
                           int *tracker);

/* Opens a transaction. */
int hvckpt_begin(hvckpt_region *region);
/* Ends it.  After an error other than HVCKPT_E_IN_USE and HVCKPT_E_NOT_OPEN
 * it is over too, and every page must be counted as dirty.  out may be NULL. */
int hvckpt_commit(hvckpt_region *region, struct hvckpt_dirty *out);
/* Ends it and opens the next, without a gap in which writes would be missed.
 * After an error none is open. */
int hvckpt_commit_and_continue(hvckpt_region *region, struct hvckpt_dirty *out);
/* What was dirtied so far; the transaction goes on as if not asked. */
int hvckpt_peek(hvckpt_region *region, struct hvckpt_dirty *out);
/* Ends it and forgets its list. */
int hvckpt_end(hvckpt_region *region);

/* Makes pages dirty without changing them, before a system call writes there:
 * needed with trackers whose limits say kernel_writes REFUSED.  Holds until
 * the next begin or commit. */
int hvckpt_prepare_write(hvckpt_region *region, size_t offset, size_t bytes);

/* What becomes of a kind of write. */
enum {
    HVCKPT_REPORTED = 0,
    HVCKPT_REFUSED = 1,             /* the system call fails with EFAULT */
    HVCKPT_MISSED = 2,
};

struct hvckpt_limits {
    int kernel_writes;              /* read, recv, process_vm_writev ... */
    int forced_writes;              /* ptrace, /proc/pid/mem */
    int mapped_anew;                /* other memory mapped there in a cycle */
};

int hvckpt_get_limits(int tracker, struct hvckpt_limits *out);
/* NULL if there is no such tracker. */
const char *hvckpt_tracker_name(int tracker);
int hvckpt_tracker_by_name(const char *name);

/* Counted in the hypervisor, for the whole session; see cda.h. */
struct hvckpt_hypervisor_counters {
    uint64_t crossings;
    uint64_t restarts;
    uint64_t faults_fixed;
    uint64_t faults_forwarded;
    uint64_t faults_spurious;
    uint64_t faults_xen;
    uint64_t guest_updates;
    uint64_t write_protected;
    uint64_t walks;
    uint64_t forks;
    uint64_t flushes;
    uint64_t cycles;
};

#define HVCKPT_KNOWN_FAULTS 1u
#define HVCKPT_KNOWN_HYPERVISOR 2u

struct hvckpt_counters {
    size_t size;                    /* IN: sizeof(struct hvckpt_counters) */
    unsigned int known;             /* HVCKPT_KNOWN_* */
    unsigned int reserved;
    uint64_t faults;                /* first writes which trapped */
    struct hvckpt_hypervisor_counters hypervisor;
};

int hvckpt_get_counters(const hvckpt_region *region,
                        struct hvckpt_counters *out);

/* Is there a gate into the hypervisor?  Safe everywhere.  Stores the ABI
 * version (bits 0-15) and capability bits; out may be NULL. */
int hvckpt_gate(uint64_t *out);

/* What a code means; never NULL. */
const char *hvckpt_strerror(int code);
/* What went wrong in the last call of this thread which failed, in detail;
 * valid until the next one fails. */
const char *hvckpt_last_error(void);
/* Version of the library: major << 16 | minor << 8 | patch. */
unsigned int hvckpt_version(void);

#ifdef __cplusplus
}
#endif

#endif /* HVCKPT_H */
