/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Frames and requests. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

int write_all(int fd, const void *p, size_t n)
{
    const char *s = p;

    while (n) {
        ssize_t w = write(fd, s, n);

        if (w < 0) {
            if (errno == EINTR || errno == EAGAIN)
                continue;
            return -1;
        }
        s += w;
        n -= w;
    }
    return 0;
}

static int read_all(int fd, void *p, size_t n)
{
    char *s = p;
    size_t got = 0;

    while (got < n) {
        ssize_t r = read(fd, s + got, n - got);

        if (r < 0) {
            if (errno == EINTR || errno == EAGAIN)
                continue;
            return -1;
        }
        if (r == 0)
            return got ? -1 : 0;
        got += r;
    }
    return 1;
}

int frame_send(int fd, char type, const void *p, size_t n)
{
    /* One write per frame: fewer crossings, and no torn headers. */
    unsigned char *b = malloc(5 + n);
    int rc;

    if (!b)
        return -1;
    b[0] = type;
    for (int i = 0; i < 4; i++)
        b[1 + i] = (uint32_t)n >> (8 * i);
    if (n)
        memcpy(b + 5, p, n);
    rc = write_all(fd, b, 5 + n);
    free(b);
    return rc;
}

int frame_text(int fd, char type, const char *fmt, ...)
{
    char s[1024];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(s, sizeof(s), fmt, ap);
    va_end(ap);
    return frame_send(fd, type, s, strlen(s));
}

int frame_read(int fd, struct frame *f)
{
    unsigned char h[5];
    int rc = read_all(fd, h, 5);

    if (rc <= 0)
        return rc;
    f->type = h[0];
    f->len = h[1] | h[2] << 8 | h[3] << 16 | (uint32_t)h[4] << 24;
    if (f->len > FRAME_MAX || !(f->data = malloc(f->len + 1)))
        return -1;
    if (f->len && read_all(fd, f->data, f->len) != 1) {
        free(f->data);
        return -1;
    }
    f->data[f->len] = 0;
    return 1;
}

void frame_free(struct frame *f)
{
    free(f->data);
    f->data = NULL;
}

/* Takes the R frame already read, then the rest up to G. */
int request_read(int fd, const struct frame *first, struct request *rq)
{
    size_t n = 0, i = 0;
    char *s;
    struct frame f;

    memset(rq, 0, sizeof(*rq));
    rq->in = -1;
    rq->raw_len = first->len;
    rq->raw = malloc(first->len + 1);
    rq->buf = malloc(first->len + 1);
    if (!rq->raw || !rq->buf)
        return -1;
    memcpy(rq->raw, first->data, first->len + 1);
    memcpy(rq->buf, first->data, first->len + 1);
    for (uint32_t k = 0; k < first->len; k++)
        n += !first->data[k];
    if (n < 3 || first->data[first->len - 1])
        return -1;
    rq->argv = calloc(n - 1, sizeof(char *));
    for (s = rq->buf; s < rq->buf + first->len; s += strlen(s) + 1, i++) {
        if (i == 0)
            rq->target = s;
        else if (i == 1)
            rq->uid = atoi(s);
        else
            rq->argv[i - 2] = s;
    }
    while (frame_read(fd, &f) == 1) {
        char type = f.type;

        if (type == 'I') {
            if (rq->in < 0)
                rq->in = memfd_create("stdin", MFD_CLOEXEC);
            write_all(rq->in, f.data, f.len);
        }
        frame_free(&f);
        if (type == 'G') {
            if (rq->in >= 0)
                lseek(rq->in, 0, SEEK_SET);
            return 0;
        }
        if (type != 'I')
            break;
    }
    return -1;
}

void request_free(struct request *rq)
{
    if (rq->in >= 0)
        close(rq->in);
    free(rq->raw);
    free(rq->buf);
    free(rq->argv);
}
