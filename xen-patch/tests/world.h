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
/* Runs as vCPU @v outside sched_run(). */
void world_be(unsigned int v);

void fuzz_world(unsigned int rounds);

/* Directed cases: name and function, in cases.c and races.c. */
struct test_case { const char *name; void (*fn)(void); };
extern const struct test_case errors_cases[], cases[], races[];

extern unsigned int preempt_rate, dom0_copy_fails;
extern bool opt_cda;
#endif
