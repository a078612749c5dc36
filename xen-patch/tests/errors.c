/* SPDX-License-Identifier: GPL-2.0-only */
/* Each error of docs/abi.md, by table: what is asked, what must come back. */
#include "world.h"
#include "hw.h"
#include "build/cda.h"

#define NONE 0
#define COOKIE (~0ULL - 1)        /* replaced by the session's */
#define ARG (~0ULL - 2)           /* replaced by the argument page */

struct gate_row { const char *what; uint64_t in[6]; long want; };

static void gate_rows(struct mm *mm, const struct gate_row *row)
{
    unsigned int i;
    long rc;

    for ( ; row->what; ++row )
    {
        uint64_t a[6];

        for ( i = 0; i < 6; ++i )
            a[i] = row->in[i] == COOKIE ? mm->proc.cookie
                   : row->in[i] == ARG ? io_va(0) : row->in[i];
        rc = gate(a[0], a[1], a[2], a[3], a[4], a[5]);
        CHECK(rc == row->want, "%s: %ld, expected %ld", row->what, rc,
              row->want);
    }
}

static void no_session(void)
{
    static const struct gate_row rows[] = {
        { "version", { 0 }, CDA_ABI_VERSION | CDA_CAP_PTXEN | CDA_CAP_EMULXEN |
          CDA_CAP_SCANXEN |
          CDA_CAP_AUTOXEN },
        { "version with an argument", { 0, 1 }, -EINVAL },
        { "version with a second one", { 0, 0, 1 }, -EINVAL },
        { "version with a last one", { 0, 0, 0, 0, 0, 1 }, -EINVAL },
        { "attach with a second argument", { 1, ARG, 1 }, -EINVAL },
        { "detach", { 2 }, -ENOENT },
        { "register", { 3, 0, ARG }, -ENOENT },
        { "unregister", { 4 }, -ENOENT },
        { "begin", { 5 }, -ENOENT },
        { "end", { 6 }, -ENOENT },
        { "commit", { 7 }, -ENOENT },
        { "peek", { 8 }, -ENOENT },
        { "query", { 9, 0, ARG }, -ENOENT },
        { "the operation after the last", { 10 }, -ENOSYS },
        { "an operation with high bits", { 1ULL << 32 | 5 }, -ENOSYS },
        { "attach at an unmapped address", { 1, 0x1000 }, -EFAULT },
        { "attach at a kernel address", { 1, 0xffff880000000000ULL },
          -EFAULT },
        { NULL },
    };
    struct cpu_user_regs regs = { .rip = 0x1000, .cs = 0x23 };
    struct mm *mm;

    world_start();
    mm = world_process();
    mm_load(&vcpus[0], mm);
    gate_rows(mm, rows);

    /* A 32-bit process: __USER32_CS is in every 64-bit Linux's GDT. */
    CHECK(gate_regs(&regs) == -EOPNOTSUPP, "version from 32-bit code");
    regs.rax = CDA_OP_query;
    CHECK(gate_regs(&regs) == -EOPNOTSUPP, "query from 32-bit code");
    world_end();
}

static void with_session(void)
{
    static const struct gate_row rows[] = {
        { "wrong cookie", { 9, 1, ARG }, -EACCES },
        { "detach with an argument", { 2, COOKIE, 1 }, -EINVAL },
        { "unused argument", { 5, COOKIE, 0, 1 }, -EINVAL },
        { "unused argument", { 5, COOKIE, 0, 0, 1 }, -EINVAL },
        { "unused argument", { 9, COOKIE, ARG, 0, 0, 1 }, -EINVAL },
        { "unregister nothing", { 4, COOKIE, 0 }, -EBADF },
        { "begin nothing", { 5, COOKIE, 0 }, -EBADF },
        { "end nothing", { 6, COOKIE, 77 }, -EBADF },
        { "commit a huge id", { 7, COOKIE, 1ULL << 40 }, -EBADF },
        { "begin all of none", { 5, COOKIE, CDA_ALL_RANGES }, 0 },
        { "register at an unmapped address", { 3, COOKIE, 0x1000 }, -EFAULT },
        { "query at a kernel address", { 9, COOKIE, 0xffff880000000000ULL },
          -EFAULT },
        { NULL },
    };
    static const struct gate_row open[] = {
        { "end without begin", { 6, COOKIE, 0 }, -ENODATA },
        { "commit without begin", { 7, COOKIE, 0 }, -ENODATA },
        { "peek without begin", { 8, COOKIE, 0 }, -ENODATA },
        { "begin", { 5, COOKIE, 0 }, 0 },
        { "begin again", { 5, COOKIE, 0 }, -EBUSY },
        { "begin all", { 5, COOKIE, CDA_ALL_RANGES }, -EBUSY },
        { "end", { 6, COOKIE, 0 }, 0 },
        { NULL },
    };
    static const struct gate_row revoked[] = {
        { "begin", { 5, COOKIE, 0 }, -CDA_EKEYREVOKED },
        { "query", { 9, COOKIE, ARG }, -CDA_EKEYREVOKED },
        { "register", { 3, COOKIE, ARG }, -CDA_EKEYREVOKED },
        { "wrong cookie", { 2, 5 }, -EACCES },
        { "detach", { 2, COOKIE }, 0 },
        { "detach again", { 2, COOKIE }, -ENOENT },
        { NULL },
    };
    struct cda_ctl_revoke rv = { .size = sizeof(rv), .domid = 1 };
    struct mm *mm;

    world_start();
    mm = world_session(0);
    gate_rows(mm, rows);
    CHECK(proc_register(mm, 0, va_of(0, 0), 4, io_va(2), 4096) == 0, "id");
    gate_rows(mm, open);
    hw_log_dirty(true);
    CHECK(proc_cycle(mm, CDA_OP_begin, 0) == -EOPNOTSUPP, "log-dirty mode");
    hw_log_dirty(false);
    CHECK(!ctl(CDA_CTL_revoke, &rv) && rv.sessions == 1, "revoke");
    gate_rows(mm, revoked);
    proc_forget(mm);
    world_end();
}

static void attach_rows(void)
{
    static const struct
    {
        const char *what;
        unsigned int word;        /* 64-bit word that is changed */
        uint64_t value;
        long want;
    } rows[] = {
        { "size", 0, 63, -EINVAL },
        { "flags", 0, 64 | 1ULL << 32, -EINVAL },
        { "reserved 0", 5, 1, -EINVAL },
        { "reserved 1", 6, 1, -EINVAL },
        { "reserved 2", 7, 1, -EINVAL },
        { "unknown token", 1, 0x1234, -EACCES },
        { "one bit of it", 2, 0x0505050505050504ULL, -EACCES },
        { "good", 0, 64, 0 },
        { "used token", 0, 64, -EACCES },
    };
    struct cda_ctl_limits l = { .size = sizeof(l), .domid = 1 };
    unsigned int i, n;
    struct mm *mm;

    world_start();
    mm = world_process();
    mm_load(&vcpus[0], mm);
    CHECK(!add_token(5, 0, 0), "token");
    for ( i = 0; i < ARRAY_SIZE(rows); ++i )
    {
        uint64_t w[8] = { 64, 0x0505050505050505ULL, 0x0505050505050505ULL };
        long rc;

        w[rows[i].word] = rows[i].value;
        CHECK(!put_user(io_va(0), w, sizeof(w)), "put");
        rc = gate(CDA_OP_attach, io_va(0), 0, 0, 0, 0);
        CHECK(rc == rows[i].want, "%s: %ld", rows[i].what, rc);
    }
    CHECK(!add_token(6, 0, 0) && proc_attach(mm, 6) == -EEXIST, "twice");

    /* Quota of sessions; out of memory. */
    CHECK(!ctl(CDA_CTL_get_limits, &l) && l.used_sessions == 1, "limits");
    l.max_sessions = 1;
    CHECK(!ctl(CDA_CTL_set_limits, &l), "limits");
    mm_load(&vcpus[0], world_process());
    CHECK(proc_attach(vcpus[0].mm, 6) == -ENOSPC, "quota");
    l.max_sessions = 2;
    CHECK(!ctl(CDA_CTL_set_limits, &l), "limits");
    alloc_fail_nth = 1;
    CHECK(proc_attach(vcpus[0].mm, 6) == -ENOMEM, "memory");
    /* The structure cannot be written back: no session remains. */
    for ( n = 0; n < 2; ++n )
    {
        uint64_t w[8] = { 64, 0x0606060606060606ULL, 0x0606060606060606ULL };

        CHECK(!put_user(io_va(0), w, sizeof(w)), "put");
        kern_protect(vcpus[0].mm, IO_CHUNK, 0, n);
        CHECK(gate(CDA_OP_attach, io_va(0), 0, 0, 0, 0) ==
              (n ? -EACCES : -EFAULT), "read-only structure");
        if ( !n )
            kern_protect(vcpus[0].mm, IO_CHUNK, 0, true);
    }
    CHECK(!ctl(CDA_CTL_get_limits, &l) && l.used_sessions == 1, "husk");
    world_end();
}

static void register_rows(void)
{
    struct row { const char *what; uint64_t mode, flags, start, pages, log,
                 log_bytes, r0, r1; uint32_t size; long want; };
    const uint64_t A = va_of(0, 0), L = io_va(2), TOP = 1ULL << 47;
    const struct row rows[] = {
        { "size", 1, 0, A, 4, L, 4096, 0, 0, 63, -EINVAL },
        { "mode 0", 0, 0, A, 4, L, 4096, 0, 0, 64, -EINVAL },
        { "mode 5", 5, 0, A, 4, L, 4096, 0, 0, 64, -EINVAL },
        { "mode 33", 33, 0, A, 4, L, 4096, 0, 0, 64, -EINVAL },
        { "mode 2^31", 1U << 31, 0, A, 4, L, 4096, 0, 0, 64, -EINVAL },
        { "flags", 1, 1, A, 4, L, 4096, 0, 0, 64, -EINVAL },
        { "reserved", 1, 0, A, 4, L, 4096, 1, 0, 64, -EINVAL },
        { "reserved", 1, 0, A, 4, L, 4096, 0, 1, 64, -EINVAL },
        { "no pages", 1, 0, A, 0, L, 4096, 0, 0, 64, -EINVAL },
        { "unaligned", 1, 0, A + 8, 4, L, 4096, 0, 0, 64, -EINVAL },
        { "at 2^47", 1, 0, TOP, 1, L, 4096, 0, 0, 64, -EINVAL },
        { "to 2^47 and one", 1, 0, TOP - 4096, 2, L, 4096, 0, 0, 64,
          -EINVAL },
        { "kernel", 1, 0, 0xffff880000000000ULL, 2, L, 4096, 0, 0, 64,
          -EINVAL },
        { "wraps", 1, 0, A, ~0ULL, L, 4096, 0, 0, 64, -EINVAL },
        { "wraps to one", 1, 0, A, (1ULL << 52) + 1, L, 4096, 0, 0, 64,
          -EINVAL },
        { "log unaligned", 1, 0, A, 4, L + 8, 4096, 0, 0, 64, -EINVAL },
        { "log at 2^47", 1, 0, A, 4, TOP, 4096, 0, 0, 64, -EINVAL },
        { "log in the kernel", 1, 0, A, 4, 0xffff880000000000ULL, 4096, 0, 0,
          64, -EINVAL },
        { "log beyond 2^47", 1, 0, A, 4, TOP - 64, 128, 0, 0, 64, -EINVAL },
        { "log wraps", 1, 0, A, 4, L, ~0ULL, 0, 0, 64, -EINVAL },
        { "log too small", 1, 0, A, 4, L, 63, 0, 0, 64, -EINVAL },
        { "log in the range", 1, 0, A, 4, A + 64, 128, 0, 0, 64, -EEXIST },
        { "log runs into it", 1, 0, A, 4, A - 64, 128, 0, 0, 64, -EEXIST },
        { "beyond the session's pages", 1, 0, A, 65, L, 4096, 0, 0, 64,
          -ENOSPC },
        { "good", 1, 0, A, 4, L, 4096, 0, 0, 64, 0 },
        { "the same", 1, 0, A, 4, L, 4096, 0, 0, 64, -EEXIST },
        { "its last page", 1, 0, A + 0x3000, 4, L + 4096, 4096, 0, 0, 64,
          -EEXIST },
        { "its log as range", 1, 0, L, 1, A + 0x10000, 64, 0, 0, 64,
          -EEXIST },
        { "log in the other range", 1, 0, A + 0x4000, 1, A + 0x1000, 64, 0, 0,
          64, -EEXIST },
        { "log in the other log", 1, 0, A + 0x4000, 1, L + 2048, 64, 0, 0, 64,
          -EEXIST },
        { "good", 1, 0, A + 0x4000, 1, L + 4096, 64, 0, 0, 64, 1 },
        { "a third range", 1, 0, A + 0x5000, 1, L + 8192, 64, 0, 0, 64,
          -ENOSPC },
    };
    struct cda_ctl_limits l = { .size = sizeof(l), .domid = 1 };
    struct cda_query q;
    unsigned int i, mode;
    struct mm *mm;

    world_start();
    mm = world_process();
    mm_load(&vcpus[0], mm);
    CHECK(!add_token(9, 2, 64) && !proc_attach(mm, 9), "attach");
    for ( i = 0; i < ARRAY_SIZE(rows); ++i )
    {
        const struct row *r = &rows[i];
        struct cda_register reg = {
            .size = r->size, .mode = r->mode, .flags = r->flags,
            .start = r->start, .pages = r->pages, .log = r->log,
            .log_bytes = r->log_bytes, .reserved = { r->r0, r->r1 },
        };
        long rc;

        CHECK(!put_user(io_va(0), &reg, sizeof(reg)), "put");
        rc = gate(CDA_OP_register, mm->proc.cookie, io_va(0), 0, 0, 0);
        CHECK(rc == r->want, "%s: %ld, expected %ld", r->what, rc, r->want);
    }
    CHECK(!proc_query(mm, &q) && q.pages == 5 && q.ranges == 2 &&
          q.max_ranges == 2 && q.max_pages == 64, "query");
    CHECK(!gate(CDA_OP_unregister, mm->proc.cookie, 1, 0, 0, 0), "unregister");
    for ( mode = CDA_MODE_PTXEN; mode <= CDA_MODE_AUTOXEN; ++mode )
    {
        struct cda_register reg = {
            .size = 64, .mode = mode, .start = A + 0x8000, .pages = 8,
            .log = L + 8192, .log_bytes = 64,
        };
        long rc = -ENOMEM;

        for ( i = 1; rc == -ENOMEM; ++i )     /* each allocation in turn */
        {
            CHECK(!put_user(io_va(0), &reg, sizeof(reg)), "put");
            alloc_fail_nth = i;
            rc = gate(CDA_OP_register, mm->proc.cookie, io_va(0), 0, 0, 0);
            alloc_fail_nth = 0;
            CHECK(i > 4 || rc == -ENOMEM, "allocation %u: %ld", i, rc);
        }
        CHECK(rc > 0 && !gate(CDA_OP_unregister, mm->proc.cookie, rc, 0, 0, 0),
              "mode %u: %ld", mode, rc);
    }
    CHECK(!proc_query(mm, &q) && q.pages == 4, "quota after no memory");
    CHECK(!ctl(CDA_CTL_get_limits, &l) && l.used_pages == 4, "limits");
    l.max_pages = 6;
    CHECK(!ctl(CDA_CTL_set_limits, &l), "limits");
    CHECK(proc_register(mm, 1, A + 0x8000, 3, L + 8192, 64) == -ENOSPC &&
          proc_register(mm, 1, A + 0x8000, 2, L + 8192, 64) > 0, "domain");
    world_end();
}

static void control_rows(void)
{
    struct cda_ctl_token t = {
        .size = sizeof(t), .domid = 1, .token = { 1 }, .tag = 1,
        .lifetime_ms = 1000,
    }, u;
    struct cda_ctl_limits l = { .size = sizeof(l), .domid = 1 }, m;
    struct cda_ctl_list list = { .size = sizeof(list), .domid = 1,
                                 .reserved = 1 };
    struct handle_void h = { &t };
    unsigned int i;

    world_start();
    world_be(0);
    CHECK(do_cda_op(CDA_CTL_add_token, h) == -EPERM, "from a guest");
    CHECK(ctl(CDA_CTL_version, NULL) == (CDA_ABI_VERSION | CDA_CAP_PTXEN | CDA_CAP_EMULXEN |
          CDA_CAP_SCANXEN |
          CDA_CAP_AUTOXEN) &&
          ctl(CDA_CTL_version, &t) == -EINVAL, "version");
    CHECK(ctl(77, &t) == -ENOSYS, "unknown command");
    CHECK(ctl(CDA_CTL_add_token, NULL) == -EFAULT, "no argument");
#define TOKEN(field, value, want) \
    (u = t, u.field = (value), \
     CHECK(ctl(CDA_CTL_add_token, &u) == (want), "token: " #field))
    TOKEN(size, 1, -EINVAL);
    TOKEN(tag, 0, -EINVAL);
    TOKEN(lifetime_ms, 0, -EINVAL);
    TOKEN(lifetime_ms, 3600001, -EINVAL);
    TOKEN(modes, 1, -EINVAL);
    TOKEN(token[0], 0, -EINVAL);
    TOKEN(domid, 99, -ESRCH);
    TOKEN(domid, 0x10001, -ESRCH);
    TOKEN(domid, 7, -EOPNOTSUPP);
    TOKEN(tag, 5, 0);
    TOKEN(tag, 5, -EEXIST);
    for ( i = 2; i <= 8; ++i )
        TOKEN(token[0], i, 0);
    TOKEN(token[0], 9, -ENOSPC);
    CHECK(!ctl(CDA_CTL_get_limits, &l) && l.used_tokens == 8, "tokens");
#define LIMIT(field, value, want) \
    (m = l, m.field = (value), \
     CHECK(ctl(CDA_CTL_set_limits, &m) == (want), "limits: " #field))
    LIMIT(flags, 2, -EINVAL);
    LIMIT(max_tokens, 65, -EINVAL);
    LIMIT(max_ranges, 501, -EINVAL);
    LIMIT(max_ranges, 500, 0);
    CHECK(ctl(CDA_CTL_list, &list) == -EINVAL, "list: reserved");
    opt_cda = false;
    CHECK(ctl(CDA_CTL_version, NULL) == -ENOSYS, "cda=off");
    opt_cda = true;
    world_end();
}

/* Who does not get the gate at all: #GP as without it. */
static void refused_callers(void)
{
    unsigned int i;

    for ( i = 1; i < 8; ++i )
    {
        /* The last: not admitted, in 64-bit code, in 32-bit code, attaching. */
        struct cpu_user_regs regs = {
            .rip = 0x1002, .cs = i == 6 ? 0x23 : 0x33,
            .rax = i == 7 ? CDA_OP_attach : CDA_OP_version,
        }, in = regs;
        struct cda_domain *cda;

        world_start();
        cda = domu.arch.cda;
        if ( i >= 5 )
            domu.arch.cda = NULL;
        mm_load(&vcpus[0], world_process());
        vcpus[0].arch.flags = i == 1 ? TF_kernel_mode : 0;
        domu.pv32 = i == 2;
        vcpus[0].arch.pv.trap_ctxt[0x84].address = i == 3 ? 1 : 0;
        if ( i == 4 )
            mm_load(&vcpus[0], NULL);
        do_entry_int84(&regs);
        CHECK(vcpus[0].gp_faults == 1 && regs.rip == 0x1000 &&
              regs.eflags == X86_EFLAGS_RF && regs.rax == in.rax,
              "caller %u was served", i);
        domu.arch.cda = cda;
        domu.pv32 = false;
        world_end();
    }
}

const struct test_case errors_cases[] = {
    { "errors: no session", no_session },
    { "errors: with a session", with_session },
    { "errors: attach", attach_rows },
    { "errors: register", register_rows },
    { "errors: control", control_rows },
    { "errors: who may call", refused_callers },
    { NULL, NULL },
};
