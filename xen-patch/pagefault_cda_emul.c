/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * arch/x86/pv/pagefault_cda_emul.c
 *
 * Emulxen: lets Xen's instruction emulator perform a store of a guest's user
 * mode to a protected page.  What the emulator reads comes from the guest, as
 * the process sees it; what it writes goes through cda_store_write() and
 * cda_store_cmpxchg(), which check, perform and log.  Whatever they or the
 * emulator refuse changes nothing: the page becomes writable instead, and the
 * guest executes the instruction itself.
 */

#include <xen/guest_access.h>
#include <xen/sched.h>

#include <asm/debugreg.h>
#include <asm/i387.h>
#include <asm/msr.h>
#include <asm/pv/cda.h>
#include <asm/pv/cda-compat.h>
#include <asm/x86_emulate.h>

/* What is read of an instruction at once: none is longer. */
#define AT_ONCE 16U

#define REX_B 1U
#define REX_X 2U
#define REX_R 4U
#define REX_W 8U

/* A store which is being performed, and what was read of the instruction. */
struct emul {
    struct cda_store *store;
    unsigned int bytes;
    union {
        uint8_t insn[AT_ONCE];
        uint64_t half[2];
    };
};

/* 64-bit user mode: all segments are flat but these two. */
static unsigned long base_of(enum x86_segment seg)
{
    return seg == x86_seg_fs ? read_fs_base() :
           seg == x86_seg_gs ? read_gs_base() : 0;
}

static int cf_check emul_read(enum x86_segment seg, unsigned long offset,
                              void *data, unsigned int bytes,
                              struct x86_emulate_ctxt *ctxt)
{
    if ( !is_x86_user_segment(seg) )
        return X86EMUL_UNHANDLEABLE;

    return copy_from_guest_pv(data, (void __user *)(base_of(seg) + offset),
                              bytes)
           ? X86EMUL_UNHANDLEABLE : X86EMUL_OKAY;
}

static int cf_check emul_insn_fetch(unsigned long offset, void *data,
                                    unsigned int bytes,
                                    struct x86_emulate_ctxt *ctxt)
{
    const struct emul *e = ctxt->data;
    unsigned long at = offset - ctxt->regs->rip;
    const uint8_t *from;

    if ( at >= e->bytes || bytes > e->bytes - at )
        return copy_from_guest_pv(data, (void __user *)offset, bytes)
               ? X86EMUL_UNHANDLEABLE : X86EMUL_OKAY;

    from = e->insn + at;
    switch ( bytes )
    {
    case 1:
        *(uint8_t *)data = *from;
        break;
    case 4:
        *(uint32_t *)data = *(const uint32_t *)from;
        break;
    default:
        memcpy(data, from, bytes);
        break;
    }

    return X86EMUL_OKAY;
}

/*
 * The emulator asks for an instruction field by field, and each look at guest
 * memory costs more than a field's decoding.  Once is also consistent, should
 * somebody write to the instruction meanwhile.
 */
static bool fetch(struct emul *e, unsigned long rip)
{
    e->bytes = 0;
    /* The next page may not be there, and the instruction end before it. */
    if ( (rip & ~PAGE_MASK) > PAGE_SIZE - AT_ONCE )
        return true;

    if ( get_guest(e->half[0], (uint64_t __user *)rip) ||
         get_guest(e->half[1], (uint64_t __user *)rip + 1) )
        return false;
    e->bytes = AT_ONCE;

    return true;
}

static int result(enum cda_stored stored)
{
    switch ( stored )
    {
    case CDA_STORED:    return X86EMUL_OKAY;
    case CDA_DIFFERS:   return X86EMUL_CMPXCHG_FAILED;
    case CDA_AGAIN:     return X86EMUL_RETRY;
    case CDA_REFUSED:   break;
    }

    return X86EMUL_UNHANDLEABLE;
}

static struct cda_store *store_of(const struct x86_emulate_ctxt *ctxt)
{
    const struct emul *e = ctxt->data;

    return e->store;
}

static int cf_check emul_write(enum x86_segment seg, unsigned long offset,
                               void *data, unsigned int bytes,
                               struct x86_emulate_ctxt *ctxt)
{
    return is_x86_user_segment(seg)
           ? result(cda_store_write(store_of(ctxt), base_of(seg) + offset, data,
                                    bytes))
           : X86EMUL_UNHANDLEABLE;
}

static int cf_check emul_cmpxchg(enum x86_segment seg, unsigned long offset,
                                 void *old, void *new, unsigned int bytes,
                                 bool lock, struct x86_emulate_ctxt *ctxt)
{
    return is_x86_user_segment(seg)
           ? result(cda_store_cmpxchg(store_of(ctxt), base_of(seg) + offset,
                                      old, new, bytes))
           : X86EMUL_UNHANDLEABLE;
}

static int cf_check emul_validate(const struct x86_emulate_state *state,
                                  struct x86_emulate_ctxt *ctxt)
{
    /* The emulator writes back what it read for bytes that are masked out. */
    switch ( ctxt->opcode )
    {
    case X86EMUL_OPC(0x0f, 0xf7):        /* maskmovq */
    case X86EMUL_OPC_66(0x0f, 0xf7):     /* maskmovdqu */
    case X86EMUL_OPC_VEX_66(0x0f, 0xf7): /* vmaskmovdqu */
        return X86EMUL_UNHANDLEABLE;

    /* CPUs take such a number modulo the operand's bits, the emulator does not. */
    case X86EMUL_OPC(0x0f, 0xba):        /* bts, btr, btc by an immediate */
        if ( (uint8_t)x86_insn_immediate(state, 0) >= x86_insn_opsize(state) )
            return X86EMUL_UNHANDLEABLE;
        break;

    /* Nor such a count modulo the operand's bits, but modulo 32 or 64. */
    case X86EMUL_OPC(0x0f, 0xa4):        /* shld by an immediate */
    case X86EMUL_OPC(0x0f, 0xac):        /* shrd by an immediate */
        if ( (x86_insn_immediate(state, 0) & 31) >= x86_insn_opsize(state) )
            return X86EMUL_UNHANDLEABLE;
        break;
    case X86EMUL_OPC(0x0f, 0xa5):        /* shld by %cl */
    case X86EMUL_OPC(0x0f, 0xad):        /* shrd by %cl */
        if ( (ctxt->regs->rcx & 31) >= x86_insn_opsize(state) )
            return X86EMUL_UNHANDLEABLE;
        break;
    }

    return x86_insn_is_mem_write(state, ctxt) ? X86EMUL_OKAY
                                              : X86EMUL_UNHANDLEABLE;
}

static int cf_check emul_read_segment(enum x86_segment seg,
                                      struct segment_register *reg,
                                      struct x86_emulate_ctxt *ctxt)
{
    if ( !is_x86_user_segment(seg) )
        return X86EMUL_UNHANDLEABLE;

    memset(reg, 0, sizeof(*reg));
    reg->base = base_of(seg);
    switch ( seg )
    {
    case x86_seg_cs:
        reg->sel = ctxt->regs->cs;
        break;
    case x86_seg_ss:
        reg->sel = ctxt->regs->ss;
        break;
    case x86_seg_ds:
        reg->sel = read_sreg(ds);
        break;
    case x86_seg_es:
        reg->sel = read_sreg(es);
        break;
    case x86_seg_fs:
        reg->sel = read_sreg(fs);
        break;
    case x86_seg_gs:
        reg->sel = read_sreg(gs);
        break;
    default:
        break;
    }
    reg->limit = ~0U;
    reg->type = (seg == x86_seg_cs ? _SEGMENT_CODE | _SEGMENT_WR
                                   : _SEGMENT_WR) >> 8;
    reg->s = 1;
    reg->dpl = 3;
    reg->p = 1;
    reg->l = 1;
    reg->g = 1;

    return X86EMUL_OKAY;
}

/* What the emulator asks for before it touches the FPU. */
static int cf_check emul_read_cr(unsigned int nr, unsigned long *val,
                                 struct x86_emulate_ctxt *ctxt)
{
    const struct vcpu *curr = current;

    switch ( nr )
    {
    case 0:
        *val = (read_cr0() & ~X86_CR0_TS) | curr->arch.pv.ctrlreg[0];
        return X86EMUL_OKAY;

    case 4:
        *val = curr->arch.pv.ctrlreg[4];
        return X86EMUL_OKAY;
    }

    return X86EMUL_UNHANDLEABLE;
}

/* Stores of MMX and SSE registers; the guest executes wider ones itself. */
static int cf_check emul_get_fpu(enum x86_emulate_fpu_type type,
                                 struct x86_emulate_ctxt *ctxt)
{
    struct vcpu *curr = current;

    if ( (type != X86EMUL_FPU_mmx && type != X86EMUL_FPU_xmm) ||
         (curr->arch.pv.ctrlreg[0] & (X86_CR0_TS | X86_CR0_EM)) )
        return X86EMUL_UNHANDLEABLE;

    vcpu_restore_fpu_lazy(curr);

    return X86EMUL_OKAY;
}

/*
 * Called for x87 instructions, without asking whether it is there, also after
 * get_fpu() refused them.
 */
static void cf_check emul_put_fpu(struct x86_emulate_ctxt *ctxt,
                                  enum x86_emulate_fpu_type backout,
                                  const struct x86_emul_fpu_aux *aux)
{
}

static const struct x86_emulate_ops emul_ops = {
    .read         = emul_read,
    .insn_fetch   = emul_insn_fetch,
    .write        = emul_write,
    .cmpxchg      = emul_cmpxchg,
    .validate     = emul_validate,
    .read_segment = emul_read_segment,
    .read_cr      = emul_read_cr,
    .get_fpu      = emul_get_fpu,
    .put_fpu      = emul_put_fpu,
};

/*
 * mov of a register or a constant, most of what programs store with, without
 * the emulator, with which a store takes twice as long.  Nothing is done unless
 * the bytes are
 *
 *   [66] [REX] 88|89|c6 /0|c7 /0 ModRM [SIB] [disp8|disp32] [constant]
 *
 * that is 13 at most.  False: not such a store.
 */
static bool plain_store(const struct emul *e, struct cpu_user_regs *regs,
                        enum cda_stored *stored)
{
    const uint8_t *p = e->insn;
    unsigned int rex = 0, mod, reg, rm, size = 4;
    unsigned long va = 0, value;
    uint8_t opcode;

    if ( e->bytes != AT_ONCE )
        return false;

    if ( *p == 0x66 )
    {
        size = 2;
        ++p;
    }
    if ( (*p & 0xf0) == 0x40 )
        rex = *p++;
    if ( rex & REX_W )
        size = 8;

    opcode = *p++;
    if ( (opcode & ~1) != 0x88 && (opcode & ~1) != 0xc6 )
        return false;
    if ( !(opcode & 1) )
        size = 1;

    mod = *p >> 6;
    reg = (*p >> 3) & 7;
    rm = *p++ & 7;
    if ( mod == 3 || (opcode >= 0xc6 && reg) )
        return false;

    if ( rm == 4 )
    {
        unsigned int index = ((*p >> 3) & 7) | (rex & REX_X ? 8 : 0);

        if ( index != 4 )
            va = *decode_gpr(regs, index) << (*p >> 6);
        rm = *p++ & 7;
        if ( rm == 5 && !mod )
            mod = 2;
        else
            va += *decode_gpr(regs, rm | (rex & REX_B ? 8 : 0));
    }
    else if ( rm == 5 && !mod )
    {
        mod = 2;
        /* From the end of the instruction: 4 bytes on, and the constant. */
        va = regs->rip + (p - e->insn) + 4 +
             (opcode >= 0xc6 ? min(size, 4U) : 0);
    }
    else
        va = *decode_gpr(regs, rm | (rex & REX_B ? 8 : 0));

    if ( mod == 1 )
        va += *(const int8_t *)p++;
    else if ( mod == 2 )
    {
        va += *(const int32_t *)p;
        p += 4;
    }

    if ( opcode < 0xc6 )
    {
        bool high = size == 1 && !rex && reg >= 4; /* ah, ch, dh, bh */

        value = *decode_gpr(regs, high ? reg - 4
                                       : reg | (rex & REX_R ? 8 : 0));
        if ( high )
            value >>= 8;
    }
    else if ( size == 1 )
        value = *p++;
    else if ( size == 2 )
    {
        value = *(const uint16_t *)p;
        p += 2;
    }
    else
    {
        value = *(const int32_t *)p;
        p += 4;
    }

    *stored = cda_store_write(e->store, va, &value, size);
    if ( *stored == CDA_STORED )
    {
        regs->rip += p - e->insn;
        regs->eflags &= ~X86_EFLAGS_RF;
    }

    return true;
}

static noinline bool emulate(struct emul *e, struct cpu_user_regs *regs)
{
    struct x86_emulate_ctxt ctxt = {
        .regs = regs,
        .cpu_policy = current->domain->arch.cpu_policy,
        .data = e,
        .addr_size = 64,
        .sp_size = 64,
        .lma = true,
    };

    switch ( x86_emulate(&ctxt, &emul_ops) )
    {
    case X86EMUL_OKAY:
        ASSERT(!ctxt.event_pending && !ctxt.retire.raw);
        return true;
    case X86EMUL_RETRY:
        return true;
    default:
        return false;
    }
}

/*
 * True if the access is dealt with: performed, or to be tried again as another
 * vCPU changed the entry.
 */
bool cda_emulate(struct cda_store *store, struct cpu_user_regs *regs)
{
    struct emul e;
    enum cda_stored stored;

    /* What a debugger, or the alignment check, has to see. */
    if ( (regs->eflags & (X86_EFLAGS_TF | X86_EFLAGS_AC)) ||
         (current->arch.dr7 & DR7_ACTIVE_MASK) )
        return false;

    e.store = store;
    if ( !fetch(&e, regs->rip) )
        return false;

    return plain_store(&e, regs, &stored) ? stored != CDA_REFUSED
                                          : emulate(&e, regs);
}
