/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Run one command here and send its output and status as frames. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#define KILL_GRACE_MS 2000
/* What a finished command's surviving children may still add. */
#define DRAIN_MS 100

/* NAME=VALUE lines, written when the lab was provisioned. */
static void load_env(void)
{
    FILE *f = fopen(LAB_DIR "/env", "r");
    char *line = NULL;
    size_t n = 0;
    ssize_t len;

    while (f && (len = getline(&line, &n, f)) > 0) {
        char *eq = strchr(line, '=');

        if (line[len - 1] == '\n')
            line[len - 1] = 0;
        if (eq) {
            *eq = 0;
            setenv(line, eq + 1, 1);
        }
    }
    free(line);
    if (f)
        fclose(f);
}

static void child(struct request *rq, int out, int err)
{
    static const struct rlimit inf = { RLIM_INFINITY, RLIM_INFINITY };
    static const struct rlimit none = { 0, 0 };
    int in = rq->in >= 0 ? rq->in : open("/dev/null", O_RDONLY);

    setsid();
    dup2(in, 0);
    dup2(out, 1);
    dup2(err, 2);
    signal(SIGPIPE, SIG_DFL);
    /* Tracked memory is locked; the guest's administrator allows it. */
    setrlimit(RLIMIT_MEMLOCK, &inf);
    setrlimit(RLIMIT_CORE, &none);
    clearenv();
    setenv("PATH", LAB_DIR "/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:"
           "/usr/bin:/sbin:/bin:/usr/lib/xen-tools", 1);
    setenv("HOME", rq->uid ? "/home/user" : "/root", 1);
    setenv("USER", rq->uid ? "user" : "root", 1);
    setenv("LANG", "C.UTF-8", 1);
    load_env();
    if (chdir(LAB_DIR "/work") && chdir("/")) {
        /* nowhere to go: stay */
    }
    if (rq->uid) {
        gid_t g = rq->uid;

        if (setgroups(0, NULL) || setresgid(g, g, g) ||
            setresuid(rq->uid, rq->uid, rq->uid)) {
            dprintf(2, "labagent: cannot become uid %u: %s\n", rq->uid,
                    strerror(errno));
            _exit(126);
        }
    }
    execvp(rq->argv[0], rq->argv);
    dprintf(2, "labagent: cannot run %s: %s\n", rq->argv[0], strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
}

static int64_t earlier(int64_t a, int64_t b)
{
    return !a || (b && b < a) ? b : a;
}

int exec_request(struct request *rq, int ctl, int out)
{
    int po[2], pe[2], pidfd, status = 0, gone = 0, lost = 0;
    int64_t kill_at = 0, end_at = 0;
    char *buf;
    pid_t pid;

    if (pipe2(po, O_CLOEXEC) || pipe2(pe, O_CLOEXEC) ||
        !(buf = malloc(OUTPUT_CHUNK)))
        return frame_text(out, 'L', "no pipe or memory: %s", strerror(errno));
    pid = fork();
    if (pid < 0)
        return frame_text(out, 'L', "cannot fork: %s", strerror(errno));
    if (!pid)
        child(rq, po[1], pe[1]);
    close(po[1]);
    close(pe[1]);
    pidfd = syscall(SYS_pidfd_open, pid, 0);

    for (;;) {
        struct pollfd p[4] = {
            { .fd = po[0], .events = POLLIN },
            { .fd = pe[0], .events = POLLIN },
            { .fd = gone ? -1 : pidfd, .events = POLLIN },
            { .fd = gone || lost ? -1 : ctl, .events = POLLIN },
        };
        int64_t at = earlier(kill_at, end_at), now = now_ms();
        int n = poll(p, 4, at ? (at > now ? (int)(at - now) : 0) : -1);

        if (n < 0 && errno != EINTR)
            break;
        now = now_ms();
        for (int i = 0; n > 0 && i < 2; i++) {
            int *fd = i ? &pe[0] : &po[0];
            ssize_t r;

            if (!(p[i].revents & (POLLIN | POLLHUP)))
                continue;
            r = read(*fd, buf, OUTPUT_CHUNK);
            if (r > 0)
                frame_send(out, i ? 'e' : 'o', buf, r);
            else if (r == 0) {
                close(*fd);
                *fd = -1;
            }
        }
        if (n > 0 && p[2].revents) {
            waitpid(pid, &status, 0);
            gone = 1;
            kill_at = 0;
            end_at = now + DRAIN_MS;
        }
        if (n > 0 && p[3].revents) {
            struct frame f;
            int rc = frame_read(ctl, &f);

            if (rc == 1 && f.type != 'K') {
                frame_free(&f);
                continue;
            }
            if (rc == 1)
                frame_free(&f);
            else
                lost = 1;
            /* Asked to, or nobody listens any more. */
            kill(-pid, SIGTERM);
            kill_at = now + KILL_GRACE_MS;
        }
        if (kill_at && now >= kill_at) {
            kill(-pid, SIGKILL);
            kill(pid, SIGKILL);
            kill_at = 0;
        }
        if (gone && ((po[0] < 0 && pe[0] < 0) || now >= end_at))
            break;
    }
    close(pidfd);
    if (po[0] >= 0)
        close(po[0]);
    if (pe[0] >= 0)
        close(pe[0]);
    free(buf);
    return frame_text(out, 'x', "%d", WIFSIGNALED(status) ?
                      128 + WTERMSIG(status) : WEXITSTATUS(status));
}
