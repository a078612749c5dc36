/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * hvckpt.h - critical data areas for C programs.
 *
 * Declare memory, change it inside transactions, learn which pages were
 * dirtied.  Link with -lhvckpt.
 *
 *     const int trackers[] = { HVCKPT_PTXEN, HVCKPT_PT };
 *     struct hvckpt_options o = HVCKPT_OPTIONS_INIT;
 *     hvckpt_region *r;
 *     struct hvckpt_dirty dirty;
 *     o.bytes = 1 << 20;
 *     o.trackers = trackers;         // the first which works
 *     o.tracker_count = 2;
 *     o.lock = HVCKPT_LOCK_IF_ALLOWED;
 *     if (hvckpt_register_cda(&o, &r) < 0)
 *         errx(1, "%s", hvckpt_last_error());
 *     hvckpt_begin(r);
 *     memset(hvckpt_memory(r), 1, 10);
 *     hvckpt_commit(r, &dirty);      // dirty.pages[0] == 0, dirty.count == 1
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
    HVCKPT_E_NO_GATE = -12,         /* no patch, cda=off, or no token yet */
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
    HVCKPT_E_MODE = -46,            /* the key does not allow this tracker */
    HVCKPT_E_NEEDS_LOCK = -47,      /* this tracker needs locked memory */
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

    /* The transaction. */
    HVCKPT_E_ALREADY_OPEN = -60,
    HVCKPT_E_NOT_OPEN = -61,
    HVCKPT_E_IN_USE = -62,          /* another thread is beginning or ending */
    HVCKPT_E_LOG_FAULT = -63,       /* count every page as dirty */
    HVCKPT_E_TAKEN_BACK = -64,      /* asynchronous commits, with a refused one */

    /* The store. */
    HVCKPT_E_STORE_IO = -70,        /* a file cannot be read or written */
    HVCKPT_E_STORE_FULL = -71,      /* no space; what was committed is safe */
    HVCKPT_E_STORE_READ_ONLY = -72, /* the disk, or opened so */
    HVCKPT_E_STORE_LOCKED = -73,    /* another writer has it */
    HVCKPT_E_NOT_A_STORE = -74,     /* nothing there */
    HVCKPT_E_STORE_FUTURE = -75,    /* made by a newer version */
    HVCKPT_E_STORE_DAMAGED = -76,   /* not what was written */
    HVCKPT_E_STORE_POISONED = -77,  /* a commit may be there or not: open again */
    HVCKPT_E_STORE_EXHAUSTED = -78, /* a number of the format is used up */
    HVCKPT_E_NO_VERSION = -79,      /* not kept */
    HVCKPT_E_NO_AREA = -80,         /* no area of this name */
    HVCKPT_E_AREA_SHAPE = -81,      /* name or size not possible */
    HVCKPT_E_AREA_IN_USE = -82,     /* open already */
    HVCKPT_E_ADDRESS_TAKEN = -83,   /* something is mapped where it belongs */
    HVCKPT_E_OTHER_ADDRESS = -84,   /* kept at another address */
    HVCKPT_E_STORE_KEY_NEEDED = -85,
    HVCKPT_E_STORE_WRONG_KEY = -86, /* last_error names both */
    HVCKPT_E_STORE_NOT_ENCRYPTED = -87,
    HVCKPT_E_STORE_KEY_FILE = -88,  /* unreadable, not 0600, not a key */
    HVCKPT_E_STORE_LOCK_LOST = -89, /* taken over, or moved: open it again */

    /* The arena. */
    HVCKPT_E_NO_MEMORY = -90,       /* it is full */
    HVCKPT_E_NO_ARENA = -91,        /* hvckpt_arena_open first */
    HVCKPT_E_NOT_AN_ARENA = -92,    /* the region holds something else */
    HVCKPT_E_ARENA_DAMAGED = -93,
    HVCKPT_E_OTHER_ROOT = -94,      /* made by a Rust program */

    /* Backup. */
    HVCKPT_E_UNREPLICATED = -100,   /* memory and disk have it; the backup? */
    HVCKPT_E_FENCED = -101,         /* another instance was promoted: end */
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
    int kernel_writes;              /* read, recv ... */
    int remote_writes;              /* process_vm_writev */
    int forced_writes;              /* ptrace, /proc/pid/mem */
    int mapped_anew;                /* other memory mapped there in a cycle */
    int forced_into_readonly;       /* ptrace ..., to a page made read-only */
    int pinned_before;              /* looked up before the cycle began */
    int other_mappings;             /* of shared memory, or write(2) to it */
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
    uint64_t watched;
    uint64_t heated;
    uint64_t cooled;
    uint64_t emulated;
    uint64_t degraded;
    uint64_t reserved;
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

/*
 * Durable regions: memory whose committed contents survive the process and
 * the machine, in a store (a directory).
 *
 *     hvckpt_store *s;
 *     hvckpt_durable *d;
 *     o.bytes = 1 << 20;             // struct hvckpt_options, as above
 *     if (hvckpt_store_open("/var/lib/app", NULL, &s) < 0 ||
 *         hvckpt_durable_open(s, "main", &o, &d) < 0)
 *         errx(1, "%s", hvckpt_last_error());
 *     hvckpt_durable_begin(d);
 *     ++*(uint64_t *)hvckpt_durable_memory(d);
 *     if (hvckpt_durable_commit(d, HVCKPT_SYNC, NULL) < 0)
 *         errx(1, "%s", hvckpt_last_error());
 */
typedef struct hvckpt_store hvckpt_store;
typedef struct hvckpt_durable hvckpt_durable;

/* How pages are compressed. */
enum {
    HVCKPT_COMPRESS_DEFAULT = 0,    /* LZ4 */
    HVCKPT_COMPRESS_NONE = 1,
    HVCKPT_COMPRESS_LZ4 = 2,
    HVCKPT_COMPRESS_ZSTD = 3,
};

/* Initialise with HVCKPT_STORE_OPTIONS_INIT; zero means the default. */
struct hvckpt_store_options {
    size_t size;                    /* sizeof(struct hvckpt_store_options) */
    const char *key_file;           /* of an encrypted store, mode 0600 */
    const unsigned char *key;       /* or the key itself: 32 random bytes */
    size_t keep;                    /* versions kept at least; 16 */
    uint64_t image_bytes;           /* of a file; 64 MiB */
    size_t queue_bytes;             /* of waiting commits; 64 MiB */
    uint64_t compact_bytes;         /* of increments; 64 MiB */
    uint64_t at;                    /* go back to this version */
    unsigned int interval_us;       /* asynchronous commits wait; 5,000 */
    unsigned int group_delay_us;    /* wait for others at most; 1,000 */
    int compression;                /* HVCKPT_COMPRESS_* */
    int level;                      /* of Zstandard, 1 to 19; 3 */
    int no_auto_compact;            /* 1: not in the background */
    int no_create;                  /* 1: fail if there is none */
    int read_only;                  /* 1: no lock, no thread, no write */
    int accept_loss;                /* 1: also if acknowledged versions are gone */
};

#define HVCKPT_STORE_OPTIONS_INIT { .size = sizeof(struct hvckpt_store_options) }

/* Opens the store in a directory, or makes it.  options may be NULL. */
int hvckpt_store_open(const char *directory,
                      const struct hvckpt_store_options *options,
                      hvckpt_store **out);
/* Writes what waits, and says if that fails.  Regions which are still open
 * keep the store.  NULL is fine. */
int hvckpt_store_close(hvckpt_store *store);

/* What opening found. */
struct hvckpt_recovery {
    uint64_t version;               /* the newest one; 0: none */
    uint64_t torn_bytes;            /* never committed, ignored */
    size_t problems;                /* damage elsewhere; see hvckpt verify */
    int created;                    /* 1: made just now */
};

int hvckpt_store_recovery(const hvckpt_store *store,
                          struct hvckpt_recovery *out);
/* The newest version, and the newest one on stable storage; 0: none. */
uint64_t hvckpt_store_newest(const hvckpt_store *store);
uint64_t hvckpt_store_durable(const hvckpt_store *store);
/* Bytes of asynchronous commits which wait in memory. */
size_t hvckpt_store_waiting(const hvckpt_store *store);
/* Makes every commit durable. */
int hvckpt_store_flush(hvckpt_store *store);
/* Waits until a version is on stable storage, and on the backup if commits
 * wait for one.  With commits of HVCKPT_ASYNC: the next transaction may begin
 * before this one is safe, and threads which wait share a sync.  After an
 * error it stays committed in memory; not after HVCKPT_E_NO_VERSION. */
int hvckpt_store_wait(hvckpt_store *store, uint64_t version);
/* Copies what is kept into one file and removes the rest, beside commits. */
int hvckpt_store_compact(hvckpt_store *store);
/* How many versions can be read; the newest `capacity` of them go to out,
 * which may be NULL, oldest first. */
int hvckpt_store_versions(const hvckpt_store *store, uint64_t *out,
                          size_t capacity);
/* A page (HVCKPT_PAGE_SIZE bytes) of an area in a version; 0: the newest. */
int hvckpt_store_read(const hvckpt_store *store, uint64_t version,
                      const char *area, uint64_t page, unsigned char *out);
/* What the store counts, as Prometheus text: how long it is.  As much as fits
 * goes to out, which may be NULL, and ends with a zero byte. */
int hvckpt_store_metrics(const hvckpt_store *store, char *out, size_t capacity);
/* Makes a key file; it must not exist yet.  Without it the store is lost. */
int hvckpt_store_keygen(const char *path);

/* When a commit is safe. */
enum {
    HVCKPT_SYNC = 0,                /* on stable storage when it returns */
    HVCKPT_GROUP = 1,               /* as well; shares a sync with others */
    HVCKPT_ASYNC = 2,               /* soon; a crash may lose the last ones */
    HVCKPT_MEMORY = 3,              /* abort comes back to it, a crash not */
};

/* Recovers the region of this name, or makes it.  Of the options, bytes is
 * needed the first time (later: more, to grow), memory is the address it
 * shall have (NULL: the library chooses; it stays the same for ever), and
 * log_entries must be 0. */
int hvckpt_durable_open(hvckpt_store *store, const char *name,
                        const struct hvckpt_options *options,
                        hvckpt_durable **out);
/* What was not committed is gone.  NULL is fine. */
int hvckpt_durable_close(hvckpt_durable *region);
void *hvckpt_durable_memory(const hvckpt_durable *region);
size_t hvckpt_durable_pages(const hvckpt_durable *region);
int hvckpt_durable_tracker(const hvckpt_durable *region);
/* The version which the last commit made, or which was recovered; it may not
 * be durable yet, see hvckpt_store_wait. */
uint64_t hvckpt_durable_version(const hvckpt_durable *region);

/* Opens a transaction; threads may all write inside it.  It may begin while
 * the commit before, of another thread, waits for the disk or the backup.
 * After HVCKPT_E_TAKEN_BACK, which is told once, begin again. */
int hvckpt_durable_begin(hvckpt_durable *region);
/* Commits; version may be NULL.  After an error other than HVCKPT_E_NOT_OPEN,
 * HVCKPT_E_INVALID, HVCKPT_E_UNREPLICATED and HVCKPT_E_FENCED the transaction
 * was aborted, and those of other threads which were built on it. */
int hvckpt_durable_commit(hvckpt_durable *region, int durability,
                          uint64_t *version);
/* Brings back exactly the bytes which were committed last. */
int hvckpt_durable_abort(hvckpt_durable *region);
/* As hvckpt_prepare_write. */
int hvckpt_durable_prepare_write(hvckpt_durable *region, size_t offset,
                                 size_t bytes);

/*
 * Memory inside a durable region.  What malloc, realloc, free and set_root do
 * belongs to the transaction, like every write: abort and recovery take it
 * back with the data.  Addresses stay the same for ever, so pointers into the
 * region may lie in the region.  Any thread may call.
 */

/* Opens the arena, or makes one in a region which is all zeros; no
 * transaction may be open.  1: made just now. */
int hvckpt_arena_open(hvckpt_durable *region);
/* NULL if there is no room.  Aligned to 16 bytes. */
void *hvckpt_malloc(hvckpt_durable *region, size_t bytes);
void *hvckpt_calloc(hvckpt_durable *region, size_t count, size_t bytes);
void *hvckpt_realloc(hvckpt_durable *region, void *block, size_t bytes);
/* HVCKPT_E_INVALID if it is no block, or was given back. */
int hvckpt_free(hvckpt_durable *region, void *block);
/* The block from which the program finds all others; NULL until it is set. */
void *hvckpt_root(const hvckpt_durable *region);
int hvckpt_set_root(hvckpt_durable *region, void *block);
/* Bytes in use. */
uint64_t hvckpt_arena_used(const hvckpt_durable *region);

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
