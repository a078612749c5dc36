/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Many sessions, in Dom0, which admits its own processes: one after the other,
 * or many at once, each checked by comparison of all bytes.
 *
 * usage: crowd cycles N     attach, register, begin, store, end, N times
 *        crowd sessions N   N processes with a session each, all alive
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <gate.h>

#define DATA_PAGES 16
#define LIMIT 100000

static int fd;
static uint64_t seed;
static uint8_t *data, copy[DATA_PAGES * PAGE];
static struct cda_log *list;

static void fail(const char *what, long rc)
{
    printf("FAIL %s: %ld\n", what, rc);
    fflush(stdout);
    _exit(1);
}

static uint64_t attach(void)
{
    struct cda_attach a = { .size = sizeof(a) };
    struct cda_ctl_token t = {
        .size = sizeof(t), .domid = DOMID_SELF_, .tag = 77, .lifetime_ms = 60000,
    };
    uint64_t half[2] = { next(&seed), (uint64_t)getpid() };
    long rc;

    memcpy(t.token, half, sizeof(t.token));
    memcpy(a.token, half, sizeof(a.token));
    /* All slots taken: others are about to use theirs. */
    while ( (rc = control(fd, CDA_CTL_add_token, &t)) == -ENOSPC )
        usleep(1000);
    if ( rc )
        fail("add_token", rc);
    rc = gate(CDA_OP_attach, (uintptr_t)&a, 0);
    if ( rc )
        fail("attach", rc);
    return a.cookie;
}

static long enrol(uint64_t cookie)
{
    struct cda_register r = {
        .size = sizeof(r), .mode = CDA_MODE_PTXEN, .start = (uintptr_t)data,
        .pages = DATA_PAGES, .log = (uintptr_t)list, .log_bytes = PAGE,
    };
    long rc = gate(CDA_OP_register, cookie, (uintptr_t)&r);

    if ( rc < 0 )
        fail("register", rc);
    return rc;
}

/* Stores at random; the list must name exactly what differs from the copy. */
static void cycle(uint64_t cookie, uint64_t op)
{
    const uint64_t *entry = (const uint64_t *)(list + 1);
    unsigned int i, listed = 0, want = 0;
    long rc;

    for ( i = below(&seed, 5); i; --i )
    {
        uint8_t *at = data + below(&seed, DATA_PAGES * PAGE);

        ++*(volatile uint8_t *)at;
    }
    rc = gate(op, cookie, CDA_ALL_RANGES);
    if ( rc < 0 || (rc & CDA_RESULT_LOST) )
        fail("end or commit", rc);
    for ( i = 0; i < list->count; ++i )
    {
        if ( entry[i] >= DATA_PAGES || (listed & (1u << entry[i])) )
            fail("entry", entry[i]);
        listed |= 1u << entry[i];
    }
    for ( i = 0; i < DATA_PAGES; ++i )
        if ( memcmp(copy + i * PAGE, data + i * PAGE, PAGE) )
            want |= 1u << i;
    memcpy(copy, data, sizeof(copy));
    /* Equal again after two stores: listed, rightly. */
    if ( want & ~listed )
        fail("pages missed", want & ~listed);
    if ( rc != (long)list->count )
        fail("result", rc);
}

static void prepare(void)
{
    data = mmap(NULL, DATA_PAGES * PAGE, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    list = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if ( data == MAP_FAILED || (void *)list == MAP_FAILED )
        fail("mmap", errno);
    /* A fork would leave them read-only: docs/abi.md wants a writable log. */
    madvise(data, DATA_PAGES * PAGE, MADV_DONTFORK);
    madvise(list, PAGE, MADV_DONTFORK);
    memset(data, 1, DATA_PAGES * PAGE);
    memset(list, 0, PAGE);
    memcpy(copy, data, sizeof(copy));
}

static void one(unsigned int n)
{
    uint64_t cookie = attach();
    long range = enrol(cookie), rc;

    if ( (rc = gate(CDA_OP_begin, cookie, range)) )
        fail("begin", rc);
    cycle(cookie, CDA_OP_commit);
    cycle(cookie, CDA_OP_end);
    if ( n % 3 == 0 && (rc = gate(CDA_OP_unregister, cookie, range)) )
        fail("unregister", rc);
    if ( n % 3 == 1 && (rc = gate(CDA_OP_begin, cookie, range)) )
        fail("begin", rc);
    if ( n % 64 != 63 && (rc = gate(CDA_OP_detach, cookie, 0)) )
        fail("detach", rc);
}

static int cycles(unsigned int n)
{
    unsigned int i;

    prepare();
    for ( i = 0; i < n; ++i )
        /* Now and then a process that just ends. */
        if ( i % 64 == 63 )
        {
            pid_t pid = fork();
            int status;

            if ( !pid )
            {
                seed ^= i;
                prepare();
                one(i);
                _exit(0);
            }
            if ( pid < 0 || waitpid(pid, &status, 0) != pid || status )
                fail("child", status);
        }
        else
            one(i);
    return 0;
}

static int sessions(unsigned int n)
{
    unsigned int i, bad = 0;
    int ready[2], go[2], status;
    char c;

    if ( pipe(ready) || pipe(go) )
        fail("pipe", errno);
    for ( i = 0; i < n; ++i )
    {
        pid_t pid = fork();

        if ( pid < 0 )
            fail("fork", errno);
        if ( !pid )
        {
            uint64_t cookie;
            unsigned int j;
            long rc;

            close(go[1]);
            seed ^= (i + 1) * 0x9e3779b97f4a7c15ULL;
            prepare();
            cookie = attach();
            enrol(cookie);
            if ( (rc = gate(CDA_OP_begin, cookie, CDA_ALL_RANGES)) )
                fail("begin", rc);
            /* When everybody is there, all at once. */
            if ( write(ready[1], "r", 1) != 1 || read(go[0], &c, 1) != 0 )
                fail("pipes", errno);
            for ( j = 0; j < 20; ++j )
                cycle(cookie, CDA_OP_commit);
            _exit(0);
        }
    }
    for ( i = 0; i < n; ++i )
        if ( read(ready[0], &c, 1) != 1 )
            fail("read", errno);
    {
        struct cda_ctl_limits l = { .size = sizeof(l), .domid = DOMID_SELF_ };
        long rc = control(fd, CDA_CTL_get_limits, &l);

        if ( rc || l.used_sessions < n )
            fail("sessions there are", rc ? rc : (long)l.used_sessions);
        printf("%u sessions at once\n", l.used_sessions);
        fflush(stdout);
    }
    close(go[1]);
    for ( i = 0; i < n; ++i )
        if ( wait(&status) < 0 || status )
            bad++;
    return bad != 0;
}

int main(int argc, char **argv)
{
    struct cda_ctl_limits l = { .size = sizeof(l), .domid = DOMID_SELF_ }, old;
    unsigned int n = argc > 2 ? atoi(argv[2]) : 0;
    uint64_t start;
    long rc;
    int bad;

    if ( argc != 3 || !n || n > LIMIT )
    {
        fprintf(stderr, "usage: crowd cycles|sessions N\n");
        return 2;
    }
    fd = privcmd_open();
    seed = 0x9e3779b97f4a7c15ULL;
    if ( (rc = control(fd, CDA_CTL_get_limits, &l)) )
        fail("get_limits", rc);
    old = l;
    l.max_sessions = n + 16;
    if ( (rc = control(fd, CDA_CTL_set_limits, &l)) )
        fail("set_limits", rc);
    start = now_ns();
    bad = strcmp(argv[1], "cycles") ? sessions(n) : cycles(n);
    /* A session goes with the last reference to its address space. */
    for ( n = 0; n < 3000; ++n, usleep(20000) )
        if ( !control(fd, CDA_CTL_get_limits, &l) &&
             l.used_sessions == old.used_sessions )
            break;
    if ( l.used_sessions != old.used_sessions || l.used_pages != old.used_pages )
        fail("sessions left behind", l.used_sessions);
    old.used_pages = old.used_sessions = old.used_tokens = 0;
    control(fd, CDA_CTL_set_limits, &old);
    printf("{\"program\":\"crowd\",\"what\":\"%s\",\"n\":%s,\"ms\":%lu,\"ok\":%s}\n",
           argv[1], argv[2], (now_ns() - start) / 1000000, bad ? "false" : "true");
    return bad;
}
