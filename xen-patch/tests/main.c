/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * usage: cda-test [--only NAME] [--seeds N] [--first N] [--rounds N]
 *                 [--seconds N] [--fail N] [--trace]
 *
 * Each case and each seed runs in a child of its own, so that one which fails
 * does not hide the others.  Prints what failed and "N passed, N failed".
 */
#include <stdarg.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "world.h"

static const char *running = "?";
static bool tracing;

void check_failed(const char *file, int line, const char *fmt, ...)
{
    va_list ap;

    fflush(stdout);
    fprintf(stderr, "FAILED %s: %s:%d: ", running, file, line);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    fflush(stderr);
    abort();
}

void trace(const char *fmt, ...)
{
    va_list ap;

    if ( !tracing )
        return;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
}

#ifndef LIBFUZZER
static unsigned int passed, failed;

static void in_child(const char *name, void (*fn)(void), uint64_t seed,
                     unsigned int rounds)
{
    int status;
    pid_t pid;

    fflush(NULL);
    running = name;
    pid = fork();
    if ( !pid )
    {
        rnd_seed(seed);
        if ( fn )
            fn();
        else
            fuzz_world(rounds);
        _exit(0);
    }
    if ( pid < 0 || waitpid(pid, &status, 0) != pid || status )
    {
        printf("FAILED: %s\n", name);
        failed++;
    }
    else
        passed++;
}

static void run_cases(const struct test_case *t, const char *only)
{
    for ( ; t->name; ++t )
        if ( !only || !strcmp(only, t->name) )
            in_child(t->name, t->fn, 1, 0);
}

int main(int argc, char **argv)
{
    unsigned long seeds = 1000, first = 1, rounds = 150, seconds = 0, i;
    unsigned long max_failed = 20;
    const char *only = NULL;
    time_t start = time(NULL);
    char name[32];

    for ( i = 1; i < (unsigned long)argc; ++i )
    {
        unsigned long *to = !strcmp(argv[i], "--seeds") ? &seeds
                            : !strcmp(argv[i], "--first") ? &first
                            : !strcmp(argv[i], "--rounds") ? &rounds
                            : !strcmp(argv[i], "--seconds") ? &seconds
                            : !strcmp(argv[i], "--fail") ? &max_failed : NULL;

        if ( !strcmp(argv[i], "--trace") )
            tracing = true;
        else if ( i + 1 == (unsigned long)argc )
            return fprintf(stderr, "%s: bad option %s\n", argv[0], argv[i]), 2;
        else if ( to )
            *to = strtoul(argv[++i], NULL, 0);
        else if ( !strcmp(argv[i], "--only") )
            only = argv[++i];
        else
            return fprintf(stderr, "%s: bad option %s\n", argv[0], argv[i]), 2;
    }

    run_cases(errors_cases, only);
    run_cases(cases, only);
    run_cases(watch_cases, only);
    run_cases(emul_cases, only);
    run_cases(fork_cases, only);
    run_cases(memory_cases, only);
    run_cases(races, only);
    run_cases(told_cases, only);
    run_cases(stale_cases, only);
    for ( i = first; !only && (seconds ? time(NULL) < start + (time_t)seconds
                                       : i < first + seeds); ++i )
    {
        snprintf(name, sizeof(name), "seed %lu", i);
        in_child(name, NULL, i, rounds);
        if ( failed >= max_failed )
            break;
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
#else
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    rnd_input(data, size);
    fuzz_world(1000);
    return 0;
}
#endif
