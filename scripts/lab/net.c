/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Requests over TCP (Dom0 to DomU) and over the port to the host. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#define CONNECT_MS 300000

int serve_guest(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(LAB_PORT) };
    int one = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(s, (void *)&a, sizeof(a)) || listen(s, 16)) {
        perror("labagent: listen");
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        int c = accept4(s, NULL, NULL, SOCK_CLOEXEC);
        pid_t pid;

        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        if (c < 0)
            continue;
        pid = fork();
        if (!pid) {
            struct frame f;
            struct request rq;

            setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
            if (frame_read(c, &f) == 1 && f.type == 'R' &&
                !request_read(c, &f, &rq))
                exec_request(&rq, c, c);
            _exit(0);
        }
        close(c);
    }
}

/* "NAME ADDRESS" lines kept by the Dom0 scripts; an address is itself. */
static int lookup(const char *name, struct in_addr *in)
{
    FILE *f;
    char n[64], a[64];
    int rc = -1;

    if (inet_aton(name, in))
        return 0;
    if (!(f = fopen(LAB_DIR "/domains", "r")))
        return -1;
    while (rc && fscanf(f, "%63s %63s", n, a) == 2)
        if (!strcmp(n, name) && inet_aton(a, in))
            rc = 0;
    fclose(f);
    return rc;
}

static int dial(const char *name, int wait_ms)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(LAB_PORT) };
    int one = 1, idle = 5, tries = 12, patience = 500;
    int64_t end = now_ms() + wait_ms;

    if (lookup(name, &a.sin_addr)) {
        errno = ENOENT;
        return -1;
    }
    for (;;) {
        struct pollfd p = { .events = POLLOUT };
        int err = 0, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        socklen_t n = sizeof(err);

        p.fd = fd;
        /* A guest not up yet answers nothing: do not wait for TCP to retry. One
           on a busy machine may need longer than the first attempts. */
        if (connect(fd, (void *)&a, sizeof(a)) && errno != EINPROGRESS) {
            err = errno;
        } else if (poll(&p, 1, patience) != 1) {
            err = ETIMEDOUT;
            if (patience < 5000)
                patience += patience / 4;
        } else {
            getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n);
        }
        if (!err) {
            fcntl(fd, F_SETFL, 0);
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
            setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
            setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
            setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle, sizeof(idle));
            setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &tries, sizeof(tries));
            return fd;
        }
        close(fd);
        if (now_ms() >= end) {
            errno = err;
            return -1;
        }
        usleep(50000);
    }
}

static int send_request(int fd, const struct request *rq)
{
    char buf[OUTPUT_CHUNK];
    ssize_t n;

    if (frame_send(fd, 'R', rq->raw, rq->raw_len))
        return -1;
    while (rq->in >= 0 && (n = read(rq->in, buf, sizeof(buf))) > 0)
        if (frame_send(fd, 'I', buf, n))
            return -1;
    return frame_send(fd, 'G', NULL, 0);
}

/* Pass one request to another domain, its answers to `out`. */
static int relay(struct request *rq, int ctl, int out)
{
    int fd = dial(rq->target, CONNECT_MS), done = 0;

    if (fd < 0)
        return frame_text(out, 'L', "cannot reach %s: %s", rq->target,
                          strerror(errno));
    if (send_request(fd, rq)) {
        frame_text(out, 'L', "lost %s: %s", rq->target, strerror(errno));
        done = 1;
    }
    while (!done) {
        struct pollfd p[2] = {
            { .fd = fd, .events = POLLIN },
            { .fd = ctl, .events = POLLIN },
        };
        struct frame f;

        if (poll(p, 2, -1) < 0)
            continue;
        if (p[0].revents) {
            if (frame_read(fd, &f) != 1) {
                frame_text(out, 'L', "lost the connection to %s", rq->target);
                break;
            }
            frame_send(out, f.type, f.data, f.len);
            done = f.type == 'x' || f.type == 'L';
            frame_free(&f);
        }
        if (p[1].revents) {
            if (frame_read(ctl, &f) != 1)
                break;
            frame_send(fd, f.type, f.data, f.len);
            frame_free(&f);
        }
    }
    close(fd);
    return 0;
}

int serve_host(const char *dev)
{
    struct frame f;
    int fd = open(dev, O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        perror(dev);
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    frame_send(fd, 'B', NULL, 0);
    while (frame_read(fd, &f) == 1) {
        if (f.type == 'Q') {
            if (system(LAB_DIR "/teardown") < 0)
                frame_text(fd, 'L', "cannot run the teardown");
            frame_send(fd, 'D', NULL, 0);
            return 0;
        }
        if (f.type == 'R') {
            struct request rq;

            if (request_read(fd, &f, &rq))
                frame_text(fd, 'L', "malformed request");
            else if (!strcmp(rq.target, "dom0"))
                exec_request(&rq, fd, fd);
            else
                relay(&rq, fd, fd);
            request_free(&rq);
        }
        frame_free(&f);
    }
    return 1;
}

/* call [-i] [-t SECONDS] TARGET UID CMD ARG…: from a shell in Dom0. */
int call(int argc, char **argv)
{
    int stdin_too = 0, wait_ms = CONNECT_MS, fd, opt;
    struct request rq = { .in = -1 };
    struct frame f;

    while ((opt = getopt(argc, argv, "+it:")) != -1) {
        if (opt == 'i')
            stdin_too = 1;
        else if (opt == 't')
            wait_ms = atoi(optarg) * 1000;
        else
            return 125;
    }
    if (argc - optind < 3) {
        fprintf(stderr, "usage: labagent call [-i] [-t S] TARGET UID CMD...\n");
        return 125;
    }
    for (int i = optind; i < argc; i++) {
        size_t n = strlen(argv[i]) + 1;

        rq.raw = realloc(rq.raw, rq.raw_len + n);
        memcpy(rq.raw + rq.raw_len, argv[i], n);
        rq.raw_len += n;
    }
    if (stdin_too)
        rq.in = 0;
    signal(SIGPIPE, SIG_IGN);
    fd = dial(argv[optind], wait_ms);
    if (fd < 0 || send_request(fd, &rq)) {
        fprintf(stderr, "labagent: cannot reach %s: %s\n", argv[optind],
                strerror(errno));
        return 125;
    }
    while (frame_read(fd, &f) == 1) {
        if (f.type == 'o' || f.type == 'e')
            write_all(f.type == 'o' ? 1 : 2, f.data, f.len);
        else if (f.type == 'x')
            return atoi(f.data);
        else if (f.type == 'L') {
            fprintf(stderr, "labagent: %s\n", f.data);
            return 125;
        }
        frame_free(&f);
    }
    fprintf(stderr, "labagent: lost the connection to %s\n", argv[optind]);
    return 125;
}
