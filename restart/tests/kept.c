/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* kept STOP: makes one of everything that is kept, says so a line, waits in a signal handler
 * on the alternate stack until STOP exists, then looks at all of it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define PAGES 1200

static const char *stop;
static char *alternate;
static int bad;
static sigjmp_buf back;
static volatile sig_atomic_t faults, alarms, usr2;

static void check(int good, const char *what)
{
    if (!good) {
        printf("BAD %s\n", what);
        bad = 1;
    }
}

static void fault(int signal)
{
    (void)signal;
    faults++;
    siglongjmp(back, 1);
}

static void on_alarm(int signal)
{
    (void)signal;
    alarms++;
}

static void on_usr2(int signal)
{
    (void)signal;
    usr2++;
}

/* Runs over the versions and restarts, on the alternate stack. */
static void long_handler(int signal)
{
    char local[64];
    stack_t now;

    (void)signal;
    memset(local, 0x5a, sizeof local);
    for (int n = 0; access(stop, F_OK) != 0; n++) {
        printf("line %d\n", n);
        fflush(stdout);
        usleep(5000);
    }
    check(local > alternate && local < alternate + 65536, "the handler's stack");
    for (size_t i = 0; i < sizeof local; i++)
        check(local[i] == 0x5a, "what is on the alternate stack");
    sigaltstack(NULL, &now);
    check(now.ss_flags == SS_ONSTACK && now.ss_sp == alternate, "the alternate stack");
}

/* Whether the kernel's flags of the mapping at @at have @flag. */
static int flagged(const void *at, const char *flag)
{
    char line[4096], *found;
    unsigned long start, end;
    int here = 0, is = 0;
    FILE *maps = fopen("/proc/self/smaps", "r");

    while (maps && fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            here = (unsigned long)at >= start && (unsigned long)at < end;
        else if (here && strncmp(line, "VmFlags:", 8) == 0)
            is |= (found = strstr(line, flag)) && found[-1] == ' ' && found[2] == ' ';
    }
    fclose(maps);
    return is;
}

static char *area(int kind, int advice)
{
    char *at = mmap(NULL, 4096 * PAGES, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS, -1, 0);

    for (int n = 0; n < PAGES; n += 7)
        at[4096 * n + n] = (char)(n + advice + 1);
    if (advice)
        check(madvise(at, 4096 * PAGES, advice) == 0, "madvise");
    return at;
}

static void same(const char *at, int advice, const char *what)
{
    for (int n = 0; n < PAGES; n++)
        for (int i = 0; i < 4096; i++)
            if (at[4096 * n + i] != (n % 7 == 0 && i == n ? (char)(n + advice + 1) : 0)) {
                check(0, what);
                return;
            }
}

static void handle(int signal, void (*handler)(int), int flags)
{
    struct sigaction action = { .sa_handler = handler, .sa_flags = flags };

    sigaction(signal, &action, NULL);
}

int main(int argc, char **argv)
{
    struct itimerspec hour = { .it_value = { 7200, 0 }, .it_interval = { 3, 0 } }, left;
    struct itimerval own = { .it_value = { 5400, 0 }, .it_interval = { 7, 0 } }, now;
    struct itimerval profile = { .it_value = { 3600, 0 }, .it_interval = { 0, 0 } };
    struct rlimit limit = { 77, 99 }, found;
    sigset_t set, pending;
    struct signalfd_siginfo info;
    char here[4096], *pages;
    uint64_t count = 5;

    stop = argv[argc - 1];
    alternate = malloc(65536);
    stack_t stack = { .ss_sp = alternate, .ss_size = 65536 };
    sigaltstack(&stack, NULL);
    handle(SIGSEGV, fault, SA_NODEFER);
    handle(SIGALRM, on_alarm, 0);
    handle(SIGUSR2, on_usr2, 0);
    handle(SIGUSR1, long_handler, SA_ONSTACK);

    mkdir("sub", 0777);
    check(chdir("sub") == 0, "chdir");
    umask(0137);
    setrlimit(RLIMIT_NOFILE, &limit);
    int counter = eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK);
    check(write(counter, &count, 8) == 8, "eventfd");
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    timerfd_settime(timer, 0, &hour, NULL);
    setitimer(ITIMER_REAL, &own, NULL);
    setitimer(ITIMER_PROF, &profile, NULL);
    pages = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(pages, 1, 3 * 4096);
    mprotect(pages, 4096, PROT_NONE);
    mprotect(pages + 4096, 4096, PROT_READ);
    /* What a fork does not copy. */
    char *shared = area(MAP_SHARED, 0), *alone = area(MAP_PRIVATE, MADV_DONTFORK);
    char *wiped = area(MAP_PRIVATE, MADV_WIPEONFORK), *part = area(MAP_SHARED, 0);
    mprotect(part + 4096 * 700, 4096 * 100, PROT_NONE);
    madvise(shared, 4096 * 900, MADV_DONTNEED);    /* it is still there */
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGRTMIN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    int signals = signalfd(-1, &set, SFD_NONBLOCK);
    kill(getpid(), SIGUSR2);
    raise(SIGRTMIN);

    raise(SIGUSR1);

    check(strcmp(strrchr(getcwd(here, sizeof here), '/'), "/sub") == 0, "the working directory");
    check(umask(0) == 0137, "umask");
    getrlimit(RLIMIT_NOFILE, &found);
    check(found.rlim_cur == 77 && found.rlim_max == 99, "limits");
    for (int n = 0; n < 5; n++)
        check(read(counter, &count, 8) == 8 && count == 1, "eventfd as a semaphore");
    check(read(counter, &count, 8) < 0 && errno == EAGAIN, "eventfd, not blocking");
    timerfd_gettime(timer, &left);
    check(left.it_interval.tv_sec == 3, "interval of timerfd");
    check(left.it_value.tv_sec > 3600 && left.it_value.tv_sec < 7200, "time of timerfd");
    check(fcntl(timer, F_GETFD) == FD_CLOEXEC, "close on exec");
    getitimer(ITIMER_REAL, &now);
    check(now.it_interval.tv_sec == 7, "interval of setitimer");
    check(now.it_value.tv_sec > 3600 && now.it_value.tv_sec < 5400, "time of setitimer");
    getitimer(ITIMER_PROF, &now);
    check(now.it_value.tv_sec > 1800 && now.it_value.tv_sec <= 3600, "the other setitimer");
    for (int n = 0; n < 2; n++)
        if (sigsetjmp(back, 1) == 0)
            ((volatile char *)pages)[4096 * n] = 9;
    check(faults == 2, "guard pages");
    check(pages[4096] == 1 && pages[2 * 4096] == 1, "memory beside guard pages");
    mprotect(pages, 4096, PROT_READ);
    check(pages[0] == 1, "memory below a guard page");
    mprotect(part + 4096 * 700, 4096 * 100, PROT_READ | PROT_WRITE);
    same(shared, 0, "shared memory");
    same(part, 0, "shared memory, a part of it protected");
    same(alone, MADV_DONTFORK, "memory which is kept out of forks");
    same(wiped, MADV_WIPEONFORK, "memory which forks have empty");
    check(flagged(shared, "sh") && flagged(part, "sh"), "shared");
    check(flagged(alone, "dc") && flagged(wiped, "wf"), "advice of memory");
    sigpending(&pending);
    check(sigismember(&pending, SIGUSR2) && usr2 == 0, "a signal that waits for the process");
    check(sigismember(&pending, SIGRTMIN), "a signal that waits for the thread");
    check(read(signals, &info, sizeof info) == sizeof info, "signalfd");
    check(info.ssi_signo == (uint32_t)SIGRTMIN, "the signal of signalfd");
    check(read(signals, &info, sizeof info) < 0 && errno == EAGAIN, "a signal is there once");
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    check(usr2 == 1, "a signal that waited is handled once");
    check(alarms == 0, "no alarm came");
    printf("end\n");
    return bad ? 9 : 43;
}
