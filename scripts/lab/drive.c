/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Host side: wait for the lab, run one command or a list of steps in it,
 * watch its console meanwhile, and turn all that into an exit status. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent.h"

#define RC_TIMEOUT 124
#define RC_LAB     125
#define POLL_MS    100
/* After asking a command to die: emulated machines are slow. */
#define KILL_ANSWER_MS 30000
#define TEARDOWN_MS    120000
/* Let a crash dump finish before the log is read. */
#define DUMP_MS        3000

static int sock = -1, quiet, log_out = -1, log_err = -1;
static int64_t start_ms;
static volatile sig_atomic_t stopped;

static void on_signal(int sig)
{
    stopped = sig;
}

static void say(const char *fmt, ...)
{
    va_list ap;

    if (quiet)
        return;
    fflush(stdout);
    fprintf(stderr, "%s: ", getenv("HVCKPT_PROG") ?: "lab");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

__attribute__((noreturn, format(printf, 1, 2)))
static void lab_failed(const char *fmt, ...)
{
    va_list ap;

    quiet = 0;
    fflush(stdout);
    fprintf(stderr, "%s: error: the lab failed: ", getenv("HVCKPT_PROG") ?: "lab");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    /* Tells it from a program that exits with the same status. */
    close(open("lab-failed", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    exit(RC_LAB);
}

static void check_console(void)
{
    const char *hit = watch_poll();

    if (!hit)
        return;
    usleep(DUMP_MS * 1000);
    lab_failed("its console says: %s", hit);
}

/* Next frame, or 0 at `deadline` (ms, 0: none). Never returns on failure. */
static int next_frame(struct frame *f, int64_t deadline)
{
    for (;;) {
        struct pollfd p = { .fd = sock, .events = POLLIN };
        int n = poll(&p, 1, POLL_MS);

        if (stopped)
            exit(128 + stopped);
        check_console();
        if (n > 0) {
            if (frame_read(sock, f) == 1)
                return 1;
            usleep(200000);
            check_console();
            lab_failed("the machine stopped after %.1f s",
                       (now_ms() - start_ms) / 1e3);
        }
        if (deadline && now_ms() >= deadline)
            return 0;
    }
}

static void output(int err, const struct frame *f)
{
    int copy = err ? log_err : log_out;

    write_all(err ? 2 : 1, f->data, f->len);
    if (copy >= 0)
        write_all(copy, f->data, f->len);
}

/* Run argv; returns its status, RC_TIMEOUT, or -1 if it timed out and the lab
 * does not answer any more. A command's own 124 is passed on as it is. */
static int run(const char *target, int timeout_s)
{
    int64_t deadline = timeout_s ? now_ms() + timeout_s * 1000LL : 0;
    int killed = 0, rc;
    struct frame f;

    for (;;) {
        if (!next_frame(&f, deadline)) {
            if (killed)
                return -1;
            frame_send(sock, 'K', NULL, 0);
            killed = 1;
            deadline = now_ms() + KILL_ANSWER_MS;
            continue;
        }
        switch (f.type) {
        case 'o':
        case 'e':
            output(f.type == 'e', &f);
            break;
        case 'x':
            rc = killed ? RC_TIMEOUT : atoi(f.data);
            frame_free(&f);
            return rc;
        case 'L':
            if (killed) {
                frame_free(&f);
                return -1;
            }
            /* A crash of the guest explains it better. */
            usleep(500000);
            check_console();
            lab_failed("%s: %s", target, f.data);
        }
        frame_free(&f);
    }
}

static void send_request(const char *target, int root, char **argv, int argc)
{
    char *buf = NULL;
    size_t n = 0;
    FILE *m = open_memstream(&buf, &n);

    fprintf(m, "%s%c%d%c", target, 0, root ? 0 : 1000, 0);
    for (int i = 0; i < argc; i++)
        fprintf(m, "%s%c", argv[i], 0);
    fclose(m);
    if (n > FRAME_MAX || frame_send(sock, 'R', buf, n) || frame_send(sock, 'G', NULL, 0))
        lab_failed("cannot send the command: %s", strerror(errno));
    free(buf);
}

static void open_step_logs(const char *dir, const char *name)
{
    char path[4096];

    if (!dir)
        return;
    snprintf(path, sizeof(path), "%s/%s.out", dir, name);
    log_out = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
    snprintf(path, sizeof(path), "%s/%s.err", dir, name);
    log_err = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
}

static void close_step_logs(void)
{
    if (log_out >= 0)
        close(log_out);
    if (log_err >= 0)
        close(log_err);
    log_out = log_err = -1;
}

static char *word(char **s)
{
    char *w;

    *s += strspn(*s, " \t");
    w = *s;
    *s += strcspn(*s, " \t");
    if (**s)
        *(*s)++ = 0;
    return w;
}

/* Lines "TARGET[:SECONDS] NAME COMMAND…"; the command goes to /bin/sh -c. Two in
 * a row which take all their time mean that the rest would, too: it is skipped. */
static int run_script(const char *file, const char *logs, int timeout_s)
{
    FILE *in = fopen(file, "r");
    char *text = NULL;
    size_t cap = 0;
    ssize_t len;
    int failed = 0, lost = 0, late = 0;

    if (!in)
        lab_failed("cannot read %s: %s", file, strerror(errno));
    while ((len = getline(&text, &cap, in)) > 0) {
        char *s = text, *target, *name, *limit, *argv[3] = { "/bin/sh", "-c" };
        size_t n;
        int64_t begun = now_ms();
        int root, t = timeout_s, rc;

        if (text[len - 1] == '\n')
            text[len - 1] = 0;
        target = word(&s);
        if (!*target || *target == '#')
            continue;
        name = word(&s);
        argv[2] = s + strspn(s, " \t");
        limit = strchr(target, ':');
        if (limit) {
            *limit++ = 0;
            t = atoi(limit);
        }
        n = strlen(target);
        root = n > 5 && !strcmp(target + n - 5, "-root");
        if (root)
            target[n - 5] = 0;
        if (!strcmp(target, "dom0"))
            root = 1;
        if (lost || late == 2) {
            printf("step %s: skipped\n", name);
            continue;
        }
        printf("step %s: start\n", name);
        fflush(stdout);
        open_step_logs(logs, name);
        send_request(target, root, argv, 3);
        rc = run(target, t);
        close_step_logs();
        begun = now_ms() - begun;
        if (rc == 0)
            printf("step %s: ok (%.1f s)\n", name, begun / 1e3);
        else if (rc < 0)
            printf("step %s: hung, not killable (%.1f s)\n", name, begun / 1e3);
        else
            printf("step %s: exit %d (%.1f s)\n", name, rc, begun / 1e3);
        fflush(stdout);
        failed |= rc != 0;
        lost |= rc < 0;
        late = rc == RC_TIMEOUT ? late + 1 : 0;
        if (late == 2)
            say("two steps in a row timed out: the rest is skipped");
    }
    fclose(in);
    free(text);
    if (lost)
        lab_failed("a step hung and could not be killed");
    return failed;
}

static void connect_lab(const char *path)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    int64_t end = now_ms() + 30000;

    snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    while (connect(sock, (void *)&a, sizeof(a))) {
        if (now_ms() > end || stopped)
            lab_failed("the emulator did not start");
        usleep(20000);
    }
}

int drive(int argc, char **argv)
{
    static const struct option o[] = {
        { "script", 1, 0, 's' }, { "logs", 1, 0, 'l' }, { "timeout", 1, 0, 't' },
        { "boot-timeout", 1, 0, 'b' }, { "allow", 1, 0, 'a' },
        { "target", 1, 0, 'T' }, { "root", 0, 0, 'r' }, { "console", 1, 0, 'c' },
        { "quiet", 0, 0, 'q' }, { 0 },
    };
    const char *script = NULL, *logs = NULL, *allow = NULL, *target = "domu",
               *console = "console.log";
    int timeout_s = 0, boot_s = 300, root = 0, c, rc;
    struct sigaction sa = { .sa_handler = on_signal };
    struct frame f;

    while ((c = getopt_long(argc, argv, "+", o, NULL)) != -1) {
        switch (c) {
        case 's': script = optarg; break;
        case 'l': logs = optarg; break;
        case 't': timeout_s = atoi(optarg); break;
        case 'b': boot_s = atoi(optarg); break;
        case 'a': allow = optarg; break;
        case 'T': target = optarg; break;
        case 'r': root = 1; break;
        case 'c': console = optarg; break;
        case 'q': quiet = 1; break;
        default: return RC_LAB;
        }
    }
    if (optind >= argc)
        return RC_LAB;
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    signal(SIGPIPE, SIG_IGN);
    start_ms = now_ms();
    connect_lab(argv[optind++]);
    switch (watch_open(console, allow)) {
    case -1: lab_failed("no console log %s", console);
    case -2: lab_failed("'%s' is not a regular expression", allow);
    }
    do {
        if (!next_frame(&f, start_ms + boot_s * 1000LL))
            lab_failed("not up after %d s", boot_s);
        if (f.type == 'L')
            lab_failed("%s", f.data);
    } while (f.type != 'B');
    say("lab up after %.1f s", (now_ms() - start_ms) / 1e3);

    if (script)
        rc = run_script(script, logs, timeout_s);
    else {
        open_step_logs(logs, "program");
        send_request(target, root, argv + optind, argc - optind);
        rc = run(target, timeout_s);
        if (rc == RC_TIMEOUT || rc < 0)
            say("no exit after %d s", timeout_s);
        if (rc < 0)
            return RC_TIMEOUT;
    }
    /* Tearing the guests down is a test of its own. */
    frame_send(sock, 'Q', NULL, 0);
    do {
        if (!next_frame(&f, now_ms() + TEARDOWN_MS))
            lab_failed("the guests could not be destroyed in %d s", TEARDOWN_MS / 1000);
    } while (f.type != 'D');
    usleep(50000);
    check_console();
    say("finished after %.1f s", (now_ms() - start_ms) / 1e3);
    return rc;
}
