/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What programs that know nothing of checkpointing do all day: fork, exec,
 * mmap, page faults, mprotect, munmap.  Under instruction-counting virtual
 * time nanoseconds are instructions.
 *
 * usage: mix [ROUNDS]      one line: each part and all, of the better half of
 *                          the rounds
 *        mix ROUNDS NAME PROGRAM [ARG...]
 *                          the same, of a program that is run each time
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES 512
#define MOST 200
#define WARM_UP 25
#define WARM_UP_PROGRAM 1

/* Two mebibytes at their own place: one page table. */
#define PLACE ((char *)0x100000000000)

static char *area;

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static void touch(char *at, int step)
{
    for ( int i = 0; i < PAGES; i += step )
        *(volatile char *)(at + i * PAGE) += 1;
}

static void die(const char *what)
{
    perror(what);
    exit(2);
}

/* Copy on write, in the child and then in the parent. */
static void do_fork(void)
{
    pid_t pid = fork();
    int status;

    if ( pid < 0 )
        die("fork");
    if ( !pid )
    {
        touch(area, 4);
        _exit(0);
    }
    touch(area, 4);
    if ( waitpid(pid, &status, 0) != pid || status )
        die("child");
}

static void execute(char **argv)
{
    pid_t pid = fork();
    int status;

    if ( pid < 0 )
        die("fork");
    if ( !pid )
    {
        execv(argv[0], argv);
        perror(argv[0]);
        _exit(1);
    }
    if ( waitpid(pid, &status, 0) != pid || status )
    {
        fprintf(stderr, "%s: status %x\n", argv[0], status);
        exit(2);
    }
}

static void do_exec(void)
{
    execute((char *[]){ "/proc/self/exe", "nothing", NULL });
}

static void do_map(void)
{
    char *at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if ( at == MAP_FAILED )
        die("mmap");
    touch(at, 1);
    if ( munmap(at, PAGES * PAGE) )
        die("munmap");
}

static void do_protect(void)
{
    if ( mprotect(area, PAGES * PAGE, PROT_READ) ||
         mprotect(area, PAGES * PAGE, PROT_READ | PROT_WRITE) )
        die("mprotect");
    touch(area, 1);
}

/* How many page tables there are must not depend on chance. */
static void fix_layout(char **argv)
{
    int now = personality(0xffffffff);

    if ( now < 0 || (now & ADDR_NO_RANDOMIZE) )
        return;
    if ( personality(now | ADDR_NO_RANDOMIZE) < 0 )
        die("personality");
    execv("/proc/self/exe", argv);
    die("exec");
}

/* The mean of the lower half: a timer tick more or less moves it little. */
static uint64_t better_half(const uint64_t *took, unsigned int rounds)
{
    uint64_t sum = 0;
    unsigned int r, half = (rounds + 1) / 2;

    for ( r = 0; r < half; ++r )
        sum += took[r];
    return sum / half;
}

static int compare(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

static int program(const char *name, unsigned int rounds, char **argv)
{
    static uint64_t took[MOST];
    unsigned int r;

    for ( r = 0; r < rounds + WARM_UP_PROGRAM; ++r )
    {
        uint64_t start = now();

        execute(argv);
        if ( r >= WARM_UP_PROGRAM )
            took[r - WARM_UP_PROGRAM] = now() - start;
    }
    qsort(took, rounds, sizeof(took[0]), compare);
    printf("{\"program\":\"mix\",\"rounds\":%u,\"%s\":%lu}\n", rounds, name,
           better_half(took, rounds));

    return 0;
}

int main(int argc, char **argv)
{
    static const struct { const char *name; void (*run)(void); } part[] = {
        { "fork", do_fork }, { "exec", do_exec }, { "map", do_map },
        { "protect", do_protect },
    };
    enum { PARTS = sizeof(part) / sizeof(*part) };
    static uint64_t took[PARTS + 1][MOST];
    unsigned int rounds = argc > 1 ? atoi(argv[1]) : 50, r, i;

    if ( argc > 1 && !strcmp(argv[1], "nothing") )
        return 0;
    if ( !rounds || rounds > MOST || argc == 3 )
    {
        fprintf(stderr, "usage: mix [ROUNDS [NAME PROGRAM [ARG...]]]   (at most %d rounds)\n", MOST);
        return 2;
    }
    fix_layout(argv);
    if ( argc > 3 )
        return program(argv[2], rounds, argv + 3);
    area = mmap(PLACE, PAGES * PAGE, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_FIXED_NOREPLACE, -1, 0);
    if ( area != PLACE )
        die("mmap");
    /* The first rounds fill the kernel's caches. */
    for ( r = 0; r < rounds + WARM_UP; ++r )
    {
        uint64_t all = 0;

        for ( i = 0; i < PARTS; ++i )
        {
            uint64_t start = now();

            part[i].run();
            start = now() - start;
            all += start;
            if ( r >= WARM_UP )
                took[i][r - WARM_UP] = start;
        }
        if ( r >= WARM_UP )
            took[PARTS][r - WARM_UP] = all;
    }
    printf("{\"program\":\"mix\",\"rounds\":%u", rounds);
    for ( i = 0; i <= PARTS; ++i )
    {
        qsort(took[i], rounds, sizeof(took[i][0]), compare);
        printf(",\"%s\":%lu", i < PARTS ? part[i].name : "mix", better_half(took[i], rounds));
    }
    puts("}");
    return 0;
}
