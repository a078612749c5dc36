/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Virtual CPUs as coroutines, and where every decision of a run comes from.
 *
 * All that is random (which operation, which address, whether an allocation
 * fails, whether the CPU is wanted elsewhere, which vCPU goes on) is drawn
 * from one source, so that a seed or an input file repeats a run exactly.
 */
#ifndef TESTS_SCHED_H
#define TESTS_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decisions from a seed, or from an input (zeroes when it is used up). */
void rnd_seed(uint64_t seed);
void rnd_input(const uint8_t *data, size_t size);
bool rnd_more(void);
unsigned int rnd(unsigned int n);         /* 0 .. n - 1 */
uint64_t rnd64(void);
static inline bool one_in(unsigned int n) { return !rnd(n); }

/* Runs fn[i](arg[i]) for each i as coroutine i until all have returned. */
typedef void task_fn(void *arg);
void sched_run(unsigned int n, task_fn *const fn[], void *const arg[]);

/* How often sched_point() switches: one in @n; 0: never. */
extern unsigned int sched_rate;

void sched_point(void);   /* another vCPU may run here */
void sched_wait(void);    /* nothing goes on here before another vCPU ran */
bool sched_active(void);  /* inside sched_run() */

/* A script instead of chance, for the directed cases: see sched.c. */
void sched_pause_at(unsigned int task, const char *where, unsigned int nth);
void sched_at(const char *where);

#endif
