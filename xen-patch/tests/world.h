/* SPDX-License-Identifier: GPL-2.0-only */
/* A domain from creation to destruction, and random life in between. */
#ifndef TESTS_WORLD_H
#define TESTS_WORLD_H

#include "proc.h"

void world_start(void);           /* cda=on, domain admitted, no process */
void world_end(void);             /* all exits; P4: nothing is left */
/* A process with every data page mapped, and its log and argument pages. */
struct mm *world_process(void);
/* ... loaded on vCPU @v, attached. */
struct mm *world_session(unsigned int v);
/* ... with pages of chunk @c from the first on in range 0, in @mode. */
struct mm *world_range(unsigned int mode, unsigned int c, unsigned long pages);
/* Runs as vCPU @v outside sched_run(). */
void world_be(unsigned int v);

void fuzz_world(unsigned int rounds);

/* Directed cases: name and function, in files of these names. */
struct test_case { const char *name; void (*fn)(void); };
extern const struct test_case errors_cases[], cases[], races[];
extern const struct test_case watch_cases[], emul_cases[], fork_cases[];
extern const struct test_case memory_cases[];
extern const struct test_case told_cases[], stale_cases[];

extern unsigned int preempt_rate, dom0_copy_fails;
extern bool opt_cda;
#endif
