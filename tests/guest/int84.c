/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What INT does here, as a process sees it: one line per case, to be compared
 * between an unpatched hypervisor, cda=off and cda=on.  A case either
 * returns (rax is shown) or ends in a signal (number, trap, error code and
 * distance of the saved RIP from the instruction are shown).
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

static sigjmp_buf back;
static volatile long sig, trap, err, rip, flags;

static void handler(int n, siginfo_t *si, void *ctx)
{
    const greg_t *r = ((ucontext_t *)ctx)->uc_mcontext.gregs;

    (void)si;
    sig = n;
    trap = r[REG_TRAPNO];
    err = r[REG_ERR];
    rip = r[REG_RIP];
    flags = r[REG_EFL];
    siglongjmp(back, 1);
}

/* Runs @code, 64-bit or 32-bit, with rax = 0 and an intact rest. */
static void run(const char *name, const uint8_t *code, unsigned int len,
                int compat)
{
    uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    uint8_t *volatile p = page;
    long rax;

    if ( page == MAP_FAILED )
    {
        printf("%s: no memory below 2 GiB\n", name);
        return;
    }

    if ( compat )
    {
        /* A detour through memory: RSP may lose its upper half on the way. */
        static const uint8_t enter[] = {
            0x48, 0x89, 0x25, 121, 0, 0, 0,     /* mov %rsp, 128(page) */
            0x6a, 0x23, 0x68, 0, 0, 0, 0,       /* push cs; push ip */
            0x48, 0xcb,                         /* lretq */
        };
        static const uint8_t leave[] = {
            0x48, 0x8b, 0x25, 57, 0, 0, 0,      /* at 64: mov 128(page), %rsp */
            0xc3,
        };
        uint32_t target = (uint32_t)(uintptr_t)page + 32;

        memcpy(page, enter, sizeof(enter));
        memcpy(page + 10, &target, 4);
        p = page + 32;
        memcpy(p, code, len);
        p[len] = 0xea;                          /* ljmp 0x33:64(page) */
        target = (uint32_t)(uintptr_t)page + 64;
        memcpy(p + len + 1, &target, 4);
        p[len + 5] = 0x33;
        p[len + 6] = 0;
        memcpy(page + 64, leave, sizeof(leave));
    }
    else
    {
        memcpy(p, code, len);
        p[len] = 0xc3;
    }

    sig = 0;
    if ( !sigsetjmp(back, 1) )
    {
        register long r10 asm ( "r10" ) = 0, r8 asm ( "r8" ) = 0;

        asm volatile ( "sub $128, %%rsp; call *%[page]; add $128, %%rsp"
                       : "=a" (rax)
                       : "a" (0L), "D" (0L), "S" (0L), "d" (0L), "r" (r10),
                         "r" (r8), [page] "b" (page)
                       : "memory", "cc", "rcx", "r11" );
        printf("%s: returned %#lx\n", name, rax);
    }
    else
        printf("%s: signal %ld trap %ld error %#lx rip+%ld RF=%ld\n", name,
               sig, trap, err, rip - (long)p, (flags >> 16) & 1);

    munmap(page, 4096);
}

int main(void)
{
    static const uint8_t int84[] = { 0xcd, 0x84 }, int85[] = { 0xcd, 0x85 };
    static const uint8_t p84[] = { 0x66, 0xcd, 0x84 }, int82[] = { 0xcd, 0x82 };
    struct sigaction sa = { .sa_sigaction = handler,
                            .sa_flags = SA_SIGINFO | SA_NODEFER };

    /* A case which ends the program does not take the ones before with it. */
    setvbuf(stdout, NULL, _IONBF, 0);
    sigaction(SIGSEGV, &sa, NULL);
    sigaction(SIGILL, &sa, NULL);
    sigaction(SIGBUS, &sa, NULL);

    run("int84", int84, sizeof(int84), 0);
    run("int84-66", p84, sizeof(p84), 0);
    run("int84-compat", int84, sizeof(int84), 1);
    run("int85", int85, sizeof(int85), 0);
    run("int85-compat", int85, sizeof(int85), 1);
    run("int82", int82, sizeof(int82), 0);

    return 0;
}
