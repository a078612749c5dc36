/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Random control hypercalls, from Dom0 (root) or, with --denied, from a guest
 * which has no right to any.  A second thread takes the memory away, protects
 * it and changes it while Xen reads and writes there.
 *
 * usage: fuzz55 [--denied] CALLS [SEED [LIMIT]]
 * A call which takes longer than LIMIT milliseconds breaks a rule; that means
 * something only where time is counted in instructions.  Prints one line of JSON.  Exit status: 0, 1 a rule was broken, 2 no
 * hypercalls here, 77 this kernel lets a guest's processes make none.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <gate.h>

#define PAGES 8
#define MAX_ERRNO 136
/* Eight bytes each; the largest structure is smaller. */
#define STRUCTURE 64

static char *buffer;
static volatile int stop;

/* What this hypercall may answer. */
static const int documented[] = {
    1, 3, 12, 14, 17, 22, 28, 38, 95,
};
static const uint32_t domids[] = {
    0, 0, 1, 1, 1, 2, DOMID_SELF_, DOMID_SELF_, 0x7ff1, 0x7ff2, 0x7ff3, 0x7ff4,
    0xffff, 0x10000, 0x10001, 0x7fef,
};
/* Nowhere, Xen's, the machine-to-phys table, beyond everything. */
static const uint64_t hostile[] = {
    0, 1, 0xfff, 0x7ffffffff000, 0x800000000000, 0xffff7fffffffffc0,
    0xffff800000000000, 0xffff82d040200000, 0xffff82d07ffffff0,
    0xffffffffff600000, ~0ULL - 63,
};

static void *disturb(void *unused)
{
    uint64_t s = 0x5eed;

    (void)unused;
    while ( !stop )
    {
        char *at = buffer + below(&s, PAGES) * PAGE;

        switch ( below(&s, 6) )
        {
        case 0:
            mprotect(at, PAGE, PROT_READ);
            break;
        case 1:
            mprotect(at, PAGE, PROT_NONE);
            break;
        case 2:
            mmap(at, PAGE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
            break;
        case 3:
            madvise(at, PAGE, MADV_DONTNEED);
            break;
        default:
            mprotect(buffer, PAGES * PAGE, PROT_READ | PROT_WRITE);
        }
    }
    return NULL;
}

/* Through a pipe: the kernel does not mind pages that are not there. */
static void fill(const int *pipe, void *to, const void *from, size_t n)
{
    char rest[512];

    if ( write(pipe[1], from, n) == (ssize_t)n && read(pipe[0], to, n) != (ssize_t)n )
        while ( read(pipe[0], rest, sizeof(rest)) > 0 )
            ;
}

static uint64_t pointer(uint64_t *s)
{
    static const unsigned int offsets[] = { 0, 4064, 4080, 4032, 4048 };

    if ( !below(s, 8) )
        return hostile[below(s, sizeof(hostile) / sizeof(*hostile))];
    return (uintptr_t)buffer + below(s, PAGES - 1) * PAGE +
           offsets[below(s, 5)];
}

/* Fills in a structure for @cmd; its size. */
static unsigned int structure(uint64_t *s, unsigned int cmd, void *to)
{
    union {
        struct { uint32_t size, domid; } h;
        struct cda_ctl_token token;
        struct cda_ctl_revoke revoke;
        struct cda_ctl_limits limits;
        struct cda_ctl_list list;
        struct cda_ctl_counters counters;
        uint64_t word[STRUCTURE];
    } *u = to;
    static const unsigned int sizes[] = {
        [CDA_CTL_add_token] = sizeof(u->token),
        [CDA_CTL_revoke] = sizeof(u->revoke),
        [CDA_CTL_set_limits] = sizeof(u->limits),
        [CDA_CTL_get_limits] = sizeof(u->limits),
        [CDA_CTL_list] = sizeof(u->list),
        [CDA_CTL_counters] = sizeof(u->counters),
    };
    unsigned int i, size = cmd && cmd <= CDA_CTL_counters ? sizes[cmd] : 64;

    memset(u, 0, sizeof(*u));
    switch ( cmd )
    {
    case CDA_CTL_add_token:
        for ( i = 0; i < CDA_TOKEN_BYTES; ++i )
            u->token.token[i] = below(s, 4);
        u->token.tag = 1 + below(s, 4);
        u->token.lifetime_ms = 1 + below(s, 40);
        u->token.max_pages = below(s, 3);
        break;
    case CDA_CTL_revoke:
        u->revoke.tag = below(s, 4);
        /* Of sessions that exist only where the number happens to fit. */
        u->revoke.session = 1 + below(s, 8);
        break;
    case CDA_CTL_set_limits:
        u->limits.max_sessions = below(s, 100);
        u->limits.max_pages = odd(s);
        u->limits.max_ranges = odd(s);
        u->limits.max_tokens = odd(s);
        u->limits.flags = below(s, 3);
        break;
    case CDA_CTL_list:
        u->list.buffer = pointer(s);
        u->list.capacity = odd(s);
        break;
    }
    u->h.size = below(s, 16) ? size : odd(s);
    u->h.domid = domids[below(s, sizeof(domids) / sizeof(*domids))];
    if ( !below(s, 8) )
        u->word[below(s, size / 8)] = odd(s);
    return size;
}

static uint64_t count[MAX_ERRNO], good[8], broken;

static void judge(unsigned int cmd, long rc, int denied)
{
    unsigned int i;

    if ( denied ? rc == -EPERM : rc >= 0 && cmd <= CDA_CTL_counters )
    {
        good[cmd < 7 ? cmd : 7]++;
        return;
    }
    if ( !denied )
        for ( i = 0; i < sizeof(documented) / sizeof(*documented); ++i )
            if ( rc == -documented[i] )
            {
                count[documented[i]]++;
                return;
            }
    broken++;
    printf("FAIL command %u answered %ld\n", cmd, rc);
}

int main(int argc, char **argv)
{
    int denied = argc > 1 && !strcmp(argv[1], "--denied");
    uint64_t calls, i, s, limit, start, longest = 0, longest_cmd = 0;
    struct cda_ctl_limits before[2];
    struct sched_param first = { .sched_priority = 1 };
    int fd = privcmd_open(), ends[2];
    pthread_t thread;

    argc -= denied;
    argv += denied;
    if ( argc < 2 )
    {
        fprintf(stderr, "usage: fuzz55 [--denied] CALLS [SEED [LIMIT]]\n");
        return 2;
    }
    calls = strtoull(argv[1], NULL, 0);
    s = (argc > 2 ? strtoull(argv[2], NULL, 0) : 1) * 0x9e3779b97f4a7c15ULL | 1;
    limit = argc > 3 ? strtoull(argv[3], NULL, 0) * 1000000 : UINT64_MAX;

    /* xen_version is allowed to everybody: does the kernel let it pass? */
    if ( hypercall2(fd, 17, 0, 0) < 0 )
    {
        puts("SKIP this kernel's privcmd makes no hypercalls for a guest");
        return 77;
    }
    if ( control(fd, CDA_CTL_version, NULL) < 0 && !denied )
    {
        fprintf(stderr, "fuzz55: hypercall 55: %s\n", strerror(errno));
        return 2;
    }
    for ( i = 0; i < 2; ++i )
    {
        memset(&before[i], 0, sizeof(*before));
        before[i].size = sizeof(*before);
        before[i].domid = i;
        if ( !denied && control(fd, CDA_CTL_get_limits, &before[i]) )
            before[i].size = 0;
    }

    buffer = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if ( buffer == MAP_FAILED || pipe2(ends, O_NONBLOCK) ||
         pthread_create(&thread, NULL, disturb, NULL) )
    {
        perror("fuzz55");
        return 2;
    }
    /* Time that the kernel gives to others is not Xen's. */
    if ( limit != UINT64_MAX && sched_setscheduler(0, SCHED_FIFO, &first) )
    {
        perror("fuzz55: no priority");
        return 2;
    }

    for ( i = 0; i < calls; ++i )
    {
        unsigned int cmd = below(&s, 20) ? below(&s, 8) : odd(&s);
        uint64_t at = pointer(&s), words[STRUCTURE], took;
        unsigned int size = structure(&s, cmd, words);
        long rc;

        if ( cmd == CDA_CTL_version )
            at = below(&s, 2) ? 0 : at;
        else if ( at >= (uintptr_t)buffer && at < (uintptr_t)buffer + PAGES * PAGE )
            fill(ends, (void *)at, words, size);
        start = now_ns();
        rc = hypercall2(fd, __HYPERVISOR_cda_op, cmd, at);
        took = now_ns() - start;
        if ( took > longest )
        {
            longest = took;
            longest_cmd = cmd;
        }
        judge(cmd, rc, denied);
        /* The others' turn. */
        if ( limit != UINT64_MAX )
            usleep(50);
    }
    stop = 1;
    pthread_join(thread, NULL);
    for ( i = 0; i < 2; ++i )
        if ( !denied && before[i].size && control(fd, CDA_CTL_set_limits, &before[i]) )
        {
            broken++;
            printf("FAIL limits of domain %lu are not as before\n", i);
        }
    for ( i = 0; i < 7 && !denied; ++i )
        if ( !good[i] )
        {
            broken++;
            printf("FAIL command %lu never succeeded\n", i);
        }
    if ( longest > limit )
    {
        broken++;
        printf("FAIL command %lu took %lu ns\n", longest_cmd, longest);
    }
    printf("{\"program\":\"fuzz55\",\"calls\":%lu,\"denied\":%d,\"good\":[", calls, denied);
    for ( i = 0; i < 8; ++i )
        printf("%s%lu", i ? "," : "", good[i]);
    printf("],\"errno\":{");
    for ( i = 0, start = 0; i < MAX_ERRNO; ++i )
        if ( count[i] )
            printf("%s\"%lu\":%lu", start++ ? "," : "", i, count[i]);
    printf("},\"longest_ns\":%lu,\"longest_cmd\":%lu,\"broken\":%lu}\n", longest, longest_cmd, broken);
    return broken != 0;
}
