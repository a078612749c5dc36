/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Stand-in for libxencall and libxenstore, for tests: one domain, a handful
 * of sessions, the errors the real ones give.  Include cda.h first.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int live_buffers;
static struct cda_ctl_limits limits = { .max_sessions = 8, .max_pages = 1000, .max_ranges = 4, .max_tokens = 16 };
static uint64_t last_tag;
static int tokens, sessions = 100;

void *xencall_open(void *logger, unsigned flags) { (void)logger; (void)flags; return &live_buffers; }
int xencall_close(void *h) { (void)h; if ( live_buffers ) abort(); return 0; }

void *xencall_alloc_buffer(void *h, size_t size)
{
    void *p = NULL;

    (void)h;
    if ( posix_memalign(&p, 4096, (size + 4095) & ~4095ul) )
        return NULL;
    memset(p, 0xaa, size);
    live_buffers++;
    return p;
}

void xencall_free_buffer(void *h, void *p)
{
    /* Every buffer must come back wiped. */
    (void)h;
    if ( *(uint64_t *)p )
        abort();
    live_buffers--;
    free(p);
}

static int fail(int e) { errno = e; return -1; }

int xencall2(void *h, unsigned op, uint64_t cmd, uint64_t arg)
{
    union {
        struct { uint32_t size, domid; } h;
        struct cda_ctl_token token;
        struct cda_ctl_revoke revoke;
        struct cda_ctl_limits limits;
        struct cda_ctl_list list;
        struct cda_ctl_counters counters;
    } *u = (void *)arg;

    (void)h;
#ifdef FAKE_ENOSYS
    return fail(ENOSYS);
#endif
    if ( op != __HYPERVISOR_cda_op )
        return fail(ENOSYS);
    if ( cmd == CDA_CTL_version )
        return arg ? fail(EINVAL) : (int)(CDA_ABI_VERSION | CDA_CAP_PTXEN | CDA_CAP_AUTOXEN);
    if ( u->h.domid == 9 )
        return fail(EOPNOTSUPP);
    if ( u->h.domid != 3 )
        return fail(ESRCH);

    switch ( cmd )
    {
    case CDA_CTL_add_token:
        if ( u->h.size != sizeof(u->token) || (u->token.modes & ~0x1eu) || !u->token.tag ||
             !u->token.lifetime_ms || u->token.lifetime_ms > 3600000 )
            return fail(EINVAL);
        if ( tokens >= (int)limits.max_tokens )
            return fail(ENOSPC);
        last_tag = u->token.tag;
#ifndef FAKE_ENDLESS
        tokens++;
#endif
        return 0;
    case CDA_CTL_revoke:
        if ( u->h.size != sizeof(u->revoke) || (!u->revoke.tag && !u->revoke.session) )
            return fail(EINVAL);
        if ( u->revoke.session )
            u->revoke.sessions = u->revoke.session <= 100;
        else if ( u->revoke.tag == last_tag )
        {
            u->revoke.tokens = tokens;
            u->revoke.sessions = sessions;
            tokens = sessions = 0;
        }
        return 0;
    case CDA_CTL_set_limits:
        if ( u->h.size != sizeof(limits) || u->limits.max_tokens > 64 )
            return fail(EINVAL);
        limits = u->limits;
        limits.used_tokens = tokens;
        return 0;
    case CDA_CTL_get_limits:
        if ( u->h.size != sizeof(limits) )
            return fail(EINVAL);
        limits.used_tokens = tokens;
        u->limits = limits;
        u->limits.size = sizeof(limits);
        u->limits.domid = 3;
        return 0;
    case CDA_CTL_list:
        if ( u->h.size != sizeof(u->list) || u->list.reserved )
            return fail(EINVAL);
        u->list.total = sessions;
        for ( u->list.count = 0;
              u->list.count < u->list.capacity && (int)u->list.count < sessions;
              u->list.count++ )
        {
            struct cda_ctl_session *s = (struct cda_ctl_session *)u->list.buffer + u->list.count;

            memset(s, 0, sizeof(*s));
            s->session = u->list.count + 1;
            s->tag = last_tag;
            s->age_ms = 1500;
            s->flags = u->list.count ? 0 : CDA_SESSION_ENDED;
            s->counters.cycles = s->session;
        }
        return 0;
    case CDA_CTL_counters:
        if ( u->h.size != sizeof(u->counters) )
            return fail(EINVAL);
        u->counters.counters.crossings = 1;
        u->counters.counters.cycles = 12;
        return 0;
    }
    return fail(ENOSYS);
}

/*
 * With FAKE_XENSTORED in the environment there is a server to be reached, as
 * the real library does: by its socket, anew for every handle.
 */
void *xs_open(unsigned long flags)
{
    const char *path = getenv("FAKE_XENSTORED");
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct stat there;
    int fd, rc;

    (void)flags;
    if ( !path )
        return &live_buffers;
    if ( stat(path, &there) )
        return NULL;
    if ( (fd = socket(AF_UNIX, SOCK_STREAM, 0)) < 0 )
        return NULL;
    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    rc = connect(fd, (struct sockaddr *)&address, sizeof(address));
    close(fd);
    return rc ? NULL : &live_buffers;
}
void xs_close(void *h) { (void)h; }

char **xs_directory(void *h, uint32_t t, const char *path, unsigned *num)
{
    static const char *const ids[] = { "0", "3", "9", "junk" };
    char **list = malloc(sizeof(ids) + sizeof(ids) / sizeof(*ids) * 8), *text;

    (void)h;
    if ( t || strcmp(path, "/local/domain") )
    {
        free(list);
        errno = ENOENT;
        return NULL;
    }
    text = (char *)list + sizeof(ids);
    for ( *num = 0; *num < sizeof(ids) / sizeof(*ids); ++*num, text += 8 )
        list[*num] = strcpy(text, ids[*num]);
    return list;
}

void *xs_read(void *h, uint32_t t, const char *path, unsigned *len)
{
    static const char *const values[][2] = {
        { "/local/domain/0/name", "Domain-0" },
        { "/local/domain/3/name", "domu" },
        { "/local/domain/3/vm", "/vm/0F0E0D0C-0b0a-0908-0706-050403020100" },
        { "/local/domain/9/name", "hvm" },
    };
    unsigned i;

    (void)h;
    for ( i = 0; !t && i < sizeof(values) / sizeof(*values); ++i )
        if ( !strcmp(path, values[i][0]) )
        {
            *len = strlen(values[i][1]);
            return strdup(values[i][1]);
        }
    errno = ENOENT;
    return NULL;
}
