/* SPDX-License-Identifier: GPL-2.0-only */
/* Coroutines and decisions.  See sched.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"
#include "sched.h"
#include "shim.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define MAX_TASKS   4
#define STACK_SIZE  (256u << 10)

static struct
{
    const uint8_t *data;
    size_t left;
    uint64_t state;
    bool input;
} src;

void rnd_seed(uint64_t seed)
{
    src.input = false;
    src.state = seed * 0xd1342543de82ef95ULL + 0x1234567;
}

void rnd_input(const uint8_t *data, size_t size)
{
    src.input = true;
    src.data = data;
    src.left = size;
}

bool rnd_more(void)
{
    return !src.input || src.left;
}

static uint8_t next_byte(void)
{
    if ( !src.left )
        return 0;
    src.left--;
    return *src.data++;
}

uint64_t rnd64(void)
{
    uint64_t x;
    unsigned int i;

    if ( src.input )
    {
        for ( x = i = 0; i < 8; ++i )
            x = x << 8 | next_byte();
        return x;
    }

    /* splitmix64 */
    x = (src.state += 0x9e3779b97f4a7c15ULL);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

unsigned int rnd(unsigned int n)
{
    if ( n <= 1 )
        return 0;
    if ( src.input )
        return (n <= 256 ? next_byte() : next_byte() << 8 | next_byte()) % n;
    return rnd64() % n;
}

static void prepare(unsigned int i, task_fn *fn, void *arg);

/*
 * Saves the callee-saved registers on the stack and goes on with another
 * one.  swapcontext() would do two system calls each time.
 */
void switch_stack(void **save, void *to);
asm ( ".text\n"
      ".type switch_stack, @function\n"
      "switch_stack:\n"
      "    push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
      "    mov %rsp, (%rdi)\n"
      "    mov %rsi, %rsp\n"
      "    pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
      "    ret\n"
      ".size switch_stack, . - switch_stack\n" );

static struct task
{
    void *sp;
    void *stack;
    task_fn *fn;
    void *arg;
    bool done;
    void *fake;                   /* ASan's */
    const char *pause_at;         /* directed cases: stop there ... */
    unsigned int pause_nth;       /* ... the nth time, until others are done */
    bool paused;
} task[MAX_TASKS];

static void *main_sp;
static unsigned int nr_tasks;
static int running = -1;
static unsigned long switches, stuck;

unsigned int sched_rate;

#ifdef __SANITIZE_ADDRESS__
static const void *main_bottom;
static size_t main_size;

static void before_switch(void **fake, const void *bottom, size_t size)
{
    __sanitizer_start_switch_fiber(fake, bottom, size);
}

static void after_switch(void *fake, bool from_main)
{
    __sanitizer_finish_switch_fiber(fake, from_main ? &main_bottom : NULL,
                                    from_main ? &main_size : NULL);
}
#else
#define before_switch(fake, bottom, size) ((void)0)
#define after_switch(fake, from_main) ((void)0)
#define main_bottom NULL
#define main_size 0
#endif

static void entry(void)
{
    struct task *t = &task[running];

    after_switch(NULL, true);
    t->fn(t->arg);
    t->done = true;
    before_switch(NULL, main_bottom, main_size);
    switch_stack(&t->sp, main_sp);
}

static void leave(void)
{
    struct task *t = &task[running];

    before_switch(&t->fake, main_bottom, main_size);
    switch_stack(&t->sp, main_sp);
    after_switch(t->fake, true);
}

static void resume(unsigned int i)
{
    void *fake = NULL;

    running = i;
    current_vcpu = &vcpus[i];
    before_switch(&fake, task[i].stack, STACK_SIZE);
    switch_stack(&main_sp, task[i].sp);
    after_switch(fake, false);
    running = -1;
    current_vcpu = &vcpus[0];
    (void)fake;
}

/* The next task to run; one that was told to pause only if no other can. */
static int pick(int last)
{
    unsigned int i, n = 0, who[MAX_TASKS];

    for ( i = 0; i < nr_tasks; ++i )
        if ( !task[i].done && !task[i].paused )
            who[n++] = i;
    if ( !n )
    {
        for ( i = 0; i < nr_tasks; ++i )
            if ( !task[i].done )
            {
                task[i].paused = false;
                return i;
            }
        return -1;
    }
    if ( n == 1 )
        return who[0];
    if ( !sched_rate || !rnd_more() )
    {
        /* Round robin: whoever waits needs somebody else to go on. */
        for ( i = 0; i < n; ++i )
            if ( (int)who[i] > last )
                return who[i];
        return who[0];
    }
    return who[rnd(n)];
}

static void prepare(unsigned int i, task_fn *fn, void *arg)
{
    struct task *t = &task[i];

    if ( !t->stack )
        t->stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(t->stack != MAP_FAILED, "no memory for a stack");
    t->fn = fn;
    t->arg = arg;
    t->done = !fn;
    t->fake = NULL;
    t->paused = false;
    /* Six registers, entry(), and alignment as after a call. */
    t->sp = (void **)((char *)t->stack + STACK_SIZE) - 8;
    memset(t->sp, 0, 8 * sizeof(void *));
    ((void **)t->sp)[6] = entry;
}

void sched_run(unsigned int n, task_fn *const fn[], void *const arg[])
{
    unsigned int i;
    int t = -1;

    CHECK(n <= MAX_TASKS && running < 0, "sched_run is not recursive");
    nr_tasks = n;
    switches = 0;
    for ( i = 0; i < n; ++i )
        prepare(i, fn[i], arg[i]);

    while ( (t = pick(t)) >= 0 )
        resume(t);

    for ( i = 0; i < n; ++i )
        task[i].pause_at = NULL;
    nr_tasks = 0;
}

bool sched_active(void)
{
    return running >= 0;
}

void sched_wait(void)
{
    CHECK(++switches < 2000000, "deadlock or livelock");
    CHECK(running >= 0, "waits for a vCPU that does not exist");
    /* Waits for one that was told to pause: it has to go on. */
    if ( ++stuck > 5000 )
        for ( stuck = 0; stuck < nr_tasks; ++stuck )
            task[stuck].paused = false;
    leave();
}

void sched_point(void)
{
    rcu_poll();
    if ( running >= 0 && nr_tasks > 1 && sched_rate && one_in(sched_rate) )
        sched_wait();
}

void sched_pause_at(unsigned int t, const char *where, unsigned int nth)
{
    task[t].pause_at = where;
    task[t].pause_nth = nth;
}

/* A named place: a directed case may have asked to stop here. */
void sched_at(const char *where)
{
    struct task *t;

    if ( running >= 0 && (t = &task[running])->pause_at &&
         !strcmp(t->pause_at, where) && --t->pause_nth == 0 )
    {
        t->pause_at = NULL;
        t->paused = true;
        leave();
    }
    sched_point();
}
