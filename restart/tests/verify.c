/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* verify MIB STOP: four threads check and rewrite memory, one holds registers, until STOP exists. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREADS 4
static size_t words;
static uint64_t *memory;
static const char *stop;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread uint64_t own;

static void bad(const char *what)
{
    printf("BAD %s\n", what);
    fflush(stdout);
    _exit(9);
}

static void *work(void *argument)
{
    long id = (long)argument, tid = syscall(SYS_gettid);
    size_t from = words / THREADS * id, to = from + words / THREADS;
    double sum = 0;

    own = id * 77;
    for (uint64_t round = 1; access(stop, F_OK) != 0; round++) {
        for (size_t i = from; i < to; i++) {
            if (memory[i] != i * 31 + round - 1)
                bad("memory");
            memory[i] = i * 31 + round;
        }
        sum += 0.5;
        if (own != (uint64_t)id * 77 || sum != round * 0.5)
            bad("registers or TLS");
        if (!getenv("NEW_IDS") && tid != syscall(SYS_gettid))
            bad("tid");
        pthread_mutex_lock(&lock);
        printf("round\n");
        fflush(stdout);
        pthread_mutex_unlock(&lock);
        usleep(10000);
    }
    return NULL;
}

static volatile int over;

/* Holds a pattern in vector registers alone, from the first to the last. */
static void *hold(void *argument)
{
    uint64_t pattern = 0x0123456789abcdef, low, high;

    __asm__ volatile("movq %3, %%xmm9\n movq %3, %%xmm15\n"
                     "1: pause\n cmpl $0, %2\n je 1b\n"
                     "movq %%xmm9, %0\n movq %%xmm15, %1"
                     : "=r"(low), "=r"(high) : "m"(over), "r"(pattern) : "xmm9", "xmm15", "cc");
    if (low != pattern || high != pattern)
        bad("vector registers");
    return argument;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS], holder;

    words = (size_t)atoi(argv[1]) << 17;
    stop = argv[argc - 1];
    memory = malloc(words * 8);
    for (size_t i = 0; i < words; i++)
        memory[i] = i * 31;
    for (long i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, (void *)i);
    pthread_create(&holder, NULL, hold, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    over = 1;
    pthread_join(holder, NULL);
    printf("end\n");
    return 42;
}
