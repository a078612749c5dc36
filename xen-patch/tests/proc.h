/* SPDX-License-Identifier: GPL-2.0-only */
/* A process that uses the gate, and knows what it must be told (P1). */
#ifndef TESTS_PROC_H
#define TESTS_PROC_H

#include "guest.h"
#include "build/public.h"

#define ABANDONED (-100000L)      /* a signal handler never came back */

/* The bare gate, through all restarts. */
long gate(uint64_t op, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
          uint64_t e);
long gate_regs(struct cpu_user_regs *regs);
extern unsigned int abandon_rate; /* one in so many restarts; 0: never */

/* Control, as Dom0. */
long ctl(unsigned int cmd, void *arg);
long ctl_as(struct vcpu *v, unsigned int cmd, void *arg);
/* What the next token allows; 0: everything. */
extern uint32_t token_modes;
long add_token(uint8_t first, uint32_t max_ranges, uint64_t max_pages);

/* Bytes in the caller's own memory, through its mapping. */
unsigned long io_va(unsigned int slot);
int put_user(unsigned long va, const void *buf, unsigned int n);
int get_user(unsigned long va, void *buf, unsigned int n);

/* Operations with everything they promise checked. */
long proc_attach(struct mm *mm, uint8_t token);
/* Uses the cookie of another thread's attach before that has returned. */
void proc_eager(struct mm *mm);
/* How the next range is tracked. */
extern unsigned int proc_mode;
long proc_register(struct mm *mm, unsigned int r, unsigned long start,
                   unsigned long pages, unsigned long log,
                   unsigned long log_bytes);
long proc_unregister(struct mm *mm, unsigned int r);
long proc_detach(struct mm *mm);
long proc_cycle(struct mm *mm, unsigned int op, unsigned int r);
#define ALL_RANGES NR_RANGES
long proc_query(struct mm *mm, struct cda_query *q);
void proc_forget(struct mm *mm);  /* exec, exit: frees what is ours */
bool proc_reported(const struct mm *mm, unsigned int r, unsigned long page);

#endif
