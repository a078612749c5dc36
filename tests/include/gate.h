/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The gate and the control hypercall, for test programs in C. */
#ifndef HVCKPT_TEST_GATE_H
#define HVCKPT_TEST_GATE_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <public/cda.h>

#define PAGE 4096UL
#define DOMID_SELF_ 0x7ff0u

struct privcmd_hypercall {
    uint64_t op, arg[5];
};
#define IOCTL_HYPERCALL _IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall))

static inline long gate(uint64_t op, uint64_t a, uint64_t b)
{
    register long r10 asm ( "r10" ) = 0, r8 asm ( "r8" ) = 0;
    long rax = op;

    asm volatile ( "int $0x84"
                   : "+a" (rax), "+r" (r8)
                   : "D" (a), "S" (b), "d" (0L), "r" (r10)
                   : "memory", "cc" );
    return rax;
}

static inline int privcmd_open(void)
{
    int fd = open("/dev/xen/privcmd", O_RDWR | O_CLOEXEC);

    if ( fd < 0 )
    {
        perror("/dev/xen/privcmd");
        exit(2);
    }
    return fd;
}

/* The hypercall's own result: >= 0 or -errno. */
static inline long hypercall2(int fd, uint64_t op, uint64_t a, uint64_t b)
{
    struct privcmd_hypercall h = { op, { a, b } };
    int rc = ioctl(fd, IOCTL_HYPERCALL, &h);

    return rc < 0 ? -errno : rc;
}

static inline long control(int fd, unsigned int cmd, void *arg)
{
    return hypercall2(fd, __HYPERVISOR_cda_op, cmd, (uintptr_t)arg);
}

/* A small generator of repeatable numbers (xorshift64*). */
static inline uint64_t next(uint64_t *s)
{
    *s ^= *s >> 12;
    *s ^= *s << 25;
    *s ^= *s >> 27;
    return *s * 0x2545f4914f6cdd1dULL;
}

static inline uint64_t below(uint64_t *s, uint64_t end)
{
    return (next(s) >> 11) % end;
}

static inline uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/* A number near an edge, or any. */
static inline uint64_t odd(uint64_t *s)
{
    switch ( below(s, 4) )
    {
    case 0: return below(s, 8);
    case 1: return 1ULL << below(s, 64);
    case 2: return (1ULL << below(s, 64)) - 1;
    }
    return next(s);
}

#endif
