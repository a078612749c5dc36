// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which instructions store to memory, and how many bytes.
//!
//! The list holds what compilers and memory primitives of the C library emit,
//! and more; what is not in it costs speed, never correctness.  Source: the
//! opcode maps of the AMD64 and Intel manuals.  The unit tests of `decode`
//! compare with an independent decoder.

/// How opcode and operands are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Prefixes and REX.
    Legacy,
    /// AVX.
    Vex,
    /// AVX-512.
    Evex,
}

/// What stands before the opcode.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prefixes {
    pub(super) encoding: Encoding,
    /// 66.
    pub(super) data16: bool,
    /// 67.
    pub(super) address32: bool,
    /// F0.
    pub(super) lock: bool,
    /// F2 or F3, or zero.
    pub(super) repeat: u8,
    /// 64 or 65, or zero.
    pub(super) segment: u8,
    /// REX, or zero.
    pub(super) rex: u8,
    /// REX.W, VEX.W or EVEX.W.
    pub(super) w: bool,
    pub(super) r: bool,
    pub(super) x: bool,
    pub(super) b: bool,
    /// 0: 128 bits, 1: 256, 2: 512.
    pub(super) length: u8,
}

impl Prefixes {
    /// Size of general operands in bytes.
    pub(super) fn operand(&self) -> u16 {
        match (self.w, self.data16) {
            (true, _) => 8,
            (_, true) => 2,
            _ => 4,
        }
    }

    /// Size of an immediate operand of the full width in bytes.
    pub(super) fn immediate(&self) -> u8 {
        if self.operand() == 2 { 2 } else { 4 }
    }

    /// The prefix which selects one of several vector instructions.
    pub(super) fn sse(&self) -> u8 {
        match (self.repeat, self.data16) {
            (0, true) => 0x66,
            (repeat, _) => repeat,
        }
    }
}

/// How an instruction names the bytes which it writes, and what else the copy
/// of it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Bytes written, at most.
    pub(super) size: u16,
    /// Bytes of the immediate operand.
    pub(super) immediate: u8,
    /// What the `reg` field of ModRM means.
    pub(super) reg: Reg,
    /// Extended state which the instruction needs.
    pub(super) state: State,
    /// Where the address comes from.
    pub(super) place: Place,
}

/// Meaning of the `reg` field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reg {
    /// Part of the opcode, or a vector or mask register.
    Other,
    /// A general register, or an 8-bit one.
    General,
    /// A general register which counts bits from the address on.
    BitOffset,
}

/// Vector, mask and x87 registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// None.
    Unused,
    /// Read only.
    Read,
    /// Changed as well: x87, or exception flags of MXCSR.
    Changed,
}

/// Where the address of the store comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// ModRM.
    ModRm,
    /// `rdi` alone: maskmov.
    Rdi,
    /// `rdi`, and a string.
    Stos,
    /// `rdi`, and a string from `rsi`.
    Movs,
    /// An absolute address of eight bytes.
    Moffs,
    /// ModRM, after the value was popped.
    Pop,
}

const fn plain(size: u16, immediate: u8, reg: Reg) -> Option<Shape> {
    Some(Shape {
        size,
        immediate,
        reg,
        state: State::Unused,
        place: Place::ModRm,
    })
}

const fn place(size: u16, place: Place) -> Option<Shape> {
    Some(Shape {
        size,
        immediate: 0,
        reg: Reg::Other,
        state: State::Unused,
        place,
    })
}

const fn state(size: u16, immediate: u8, state: State) -> Option<Shape> {
    Some(Shape {
        size,
        immediate,
        reg: Reg::Other,
        state,
        place: Place::ModRm,
    })
}

const fn vector(size: u16) -> Option<Shape> {
    state(size, 0, State::Read)
}

/// The bytes stored by `opcode` of opcode map `map` (0: one-byte, 1: 0F, 2:
/// 0F38, 3: 0F3A), or `None` if it is not in the list.  `reg` is the field of
/// ModRM, `register` whether ModRM names a register.  async-signal-safe.
pub(super) fn lookup(p: &Prefixes, map: u8, opcode: u8, reg: u8, register: bool) -> Option<Shape> {
    match p.encoding {
        // Maskmov has its address in rdi, and two registers in ModRM.
        Encoding::Legacy if map == 1 && opcode == 0xf7 && register && !p.lock => match p.sse() {
            0 => maskmov(8, State::Changed),
            0x66 => maskmov(16, State::Read),
            _ => None,
        },
        Encoding::Vex if map == 1 && opcode == 0xf7 && register => {
            if p.sse() == 0x66 && p.length == 0 {
                maskmov(16, State::Read)
            } else {
                None
            }
        }
        _ if register => None,
        Encoding::Legacy => match map {
            0 => one_byte(p, opcode, reg),
            1 => two_byte(p, opcode, reg),
            2 => match (opcode, p.sse()) {
                (0xf1, 0 | 0x66) if !p.lock => plain(p.operand(), 0, Reg::General), // movbe
                (0xf9, 0) if !p.lock => plain(p.operand(), 0, Reg::General),        // movdiri
                _ => None,
            },
            _ => extract(p, opcode),
        },
        Encoding::Vex => vex(p, map, opcode, reg),
        Encoding::Evex => evex(p, map, opcode),
    }
}

fn maskmov(size: u16, state: State) -> Option<Shape> {
    Some(Shape {
        size,
        immediate: 0,
        reg: Reg::Other,
        state,
        place: Place::Rdi,
    })
}

fn one_byte(p: &Prefixes, opcode: u8, reg: u8) -> Option<Shape> {
    let wide = p.operand();
    let width = if opcode & 1 == 0 { 1 } else { wide };
    match opcode {
        // add or adc sbb and sub xor; not cmp
        0x00..=0x31 if opcode & 7 < 2 => plain(width, 0, Reg::General),
        0x80 | 0x83 if reg != 7 => plain(width, 1, Reg::Other),
        0x81 if reg != 7 => plain(width, p.immediate(), Reg::Other),
        0x86..=0x89 => plain(width, 0, Reg::General), // xchg, mov
        // mov from es, ds, fs, gs; a handler has cs and ss of its own
        0x8c if matches!(reg, 0 | 3..=5) => plain(2, 0, Reg::Other),
        0x8f if reg == 0 => place(if p.operand() == 2 { 2 } else { 8 }, Place::Pop),
        0xa2 | 0xa3 => place(if opcode == 0xa2 { 1 } else { wide }, Place::Moffs),
        0xa4 | 0xa5 => place(width, Place::Movs),
        0xaa | 0xab => place(width, Place::Stos),
        0xc0 | 0xc1 => plain(width, 1, Reg::Other), // shifts and rotations
        0xd0..=0xd3 => plain(width, 0, Reg::Other),
        0xc6 if reg == 0 => plain(1, 1, Reg::Other),
        0xc7 if reg == 0 => plain(wide, p.immediate(), Reg::Other),
        0xf6 | 0xf7 if reg == 2 || reg == 3 => plain(width, 0, Reg::Other), // not, neg
        0xfe | 0xff if reg < 2 => plain(width, 0, Reg::Other),              // inc, dec
        0xd9 | 0xdb | 0xdd | 0xdf => x87(opcode, reg),
        _ => None,
    }
}

/// fst, fstp, fist, fistp, fisttp, fbstp, fnstcw, fnstsw.
fn x87(opcode: u8, reg: u8) -> Option<Shape> {
    let size = match (opcode, reg) {
        (0xd9 | 0xdb, 2 | 3) | (0xdb, 1) => 4,
        (0xd9 | 0xdd, 7) | (0xdf, 1..=3) => 2,
        (0xdb, 7) | (0xdf, 6) => 10,
        (0xdd, 1..=3) | (0xdf, 7) => 8,
        _ => return None,
    };
    state(size, 0, State::Changed)
}

fn two_byte(p: &Prefixes, opcode: u8, reg: u8) -> Option<Shape> {
    let wide = p.operand();
    let width = if opcode & 1 == 0 { 1 } else { wide };
    match opcode {
        0x90..=0x9f => plain(1, 0, Reg::Other),               // setcc
        0xab | 0xb3 | 0xbb => plain(wide, 0, Reg::BitOffset), // bts btr btc
        0xba if reg > 4 => plain(wide, 1, Reg::Other),
        0xa4 | 0xac => plain(wide, 1, Reg::General), // shld shrd
        0xa5 | 0xad => plain(wide, 0, Reg::General),
        0xb0 | 0xb1 | 0xc0 | 0xc1 => plain(width, 0, Reg::General), // cmpxchg xadd
        0xc7 if reg == 1 => plain(if p.w { 16 } else { 8 }, 0, Reg::Other),
        _ if p.lock => None,
        0xc3 if p.sse() == 0 => plain(wide, 0, Reg::General), // movnti
        0xae if reg == 3 && p.sse() == 0 => vector(4),        // stmxcsr
        _ => sse(p, opcode),
    }
}

fn sse(p: &Prefixes, opcode: u8) -> Option<Shape> {
    let scalar = if p.w { 8 } else { 4 };
    match (opcode, p.sse()) {
        (0x11 | 0x29 | 0x2b, 0 | 0x66) | (0x7f, 0x66 | 0xf3) | (0xe7, 0x66) => vector(16),
        (0x11, 0xf3) => vector(4),
        (0x11, 0xf2) | (0x13 | 0x17, 0 | 0x66) | (0xd6, 0x66) => vector(8),
        (0x7e, 0x66) => vector(scalar),
        (0x7e, 0) => state(scalar, 0, State::Changed), // MMX, as all below
        (0x7f | 0xe7, 0) => state(8, 0, State::Changed),
        _ => None,
    }
}

/// pextrb, pextrw, pextrd, pextrq, extractps.
fn extract(p: &Prefixes, opcode: u8) -> Option<Shape> {
    let size = match opcode {
        0x14 => 1,
        0x15 => 2,
        0x16 if p.w => 8,
        0x16 | 0x17 => 4,
        _ => return None,
    };
    if p.sse() == 0x66 && !p.lock {
        state(size, 1, State::Read)
    } else {
        None
    }
}

fn vex(p: &Prefixes, map: u8, opcode: u8, reg: u8) -> Option<Shape> {
    let full = 16 << p.length;
    let pp = p.sse();
    let short = p.length == 0;
    match (map, opcode, pp) {
        (1, 0x11 | 0x29 | 0x2b, 0 | 0x66) | (1, 0x7f, 0x66 | 0xf3) | (1, 0xe7, 0x66) => {
            vector(full)
        }
        (1, 0x11, 0xf3) => vector(4),
        (1, 0x11, 0xf2) => vector(8),
        (1, 0x13 | 0x17, 0 | 0x66) | (1, 0xd6, 0x66) if short => vector(8),
        (1, 0x7e, 0x66) if short => vector(if p.w { 8 } else { 4 }),
        (1, 0xae, 0) if short && reg == 3 => vector(4),
        // kmov
        (1, 0x91, 0) if short => vector(if p.w { 8 } else { 2 }),
        (1, 0x91, 0x66) if short => vector(if p.w { 4 } else { 1 }),
        // vmaskmov, vpmaskmov
        (2, 0x2e | 0x2f, 0x66) if !p.w => vector(full),
        (2, 0x8e, 0x66) => vector(full),
        (3, 0x14..=0x17, 0x66) if short => extract(p, opcode),
        (3, 0x19 | 0x39, 0x66) if !short && !p.w => state(16, 1, State::Read),
        (3, 0x1d, 0x66) if !p.w => state(full / 2, 1, State::Changed), // vcvtps2ph
        _ => None,
    }
}

fn evex(p: &Prefixes, map: u8, opcode: u8) -> Option<Shape> {
    let full = 16 << p.length;
    let pp = p.sse();
    let short = p.length == 0;
    match (map, opcode, pp) {
        (1, 0x11 | 0x29 | 0x2b, 0 | 0x66) | (1, 0x7f, 0x66 | 0xf2 | 0xf3) | (1, 0xe7, 0x66) => {
            vector(full)
        }
        (1, 0x11, 0xf3) => vector(4),
        (1, 0x11, 0xf2) => vector(8),
        (1, 0x13 | 0x17, 0 | 0x66) | (1, 0xd6, 0x66) if short => vector(8),
        (1, 0x7e, 0x66) if short => vector(if p.w { 8 } else { 4 }),
        // vcompress, vpcompress
        (2, 0x63 | 0x8a | 0x8b, 0x66) => vector(full),
        // vpmov, vpmovs, vpmovus: narrower elements
        (2, 0x10..=0x15 | 0x20..=0x25 | 0x30..=0x35, 0xf3) if !p.w => vector(match opcode & 0xf {
            2 => full / 8,
            1 | 4 => full / 4,
            _ => full / 2,
        }),
        (3, 0x14..=0x17, 0x66) if short => extract(p, opcode),
        (3, 0x19 | 0x39, 0x66) if !short => state(16, 1, State::Read),
        (3, 0x1b | 0x3b, 0x66) if p.length == 2 => state(32, 1, State::Read),
        (3, 0x1d, 0x66) if !p.w => state(full / 2, 1, State::Changed),
        _ => None,
    }
}

/// What a displacement of one byte is multiplied with: EVEX compresses them.
pub(super) fn disp8_scale(p: &Prefixes, map: u8, opcode: u8, size: u16) -> i64 {
    if p.encoding != Encoding::Evex {
        return 1;
    }
    match (map, opcode, p.w) {
        // Compressing stores count elements.
        (2, 0x63, false) => 1,
        (2, 0x63, true) => 2,
        (2, 0x8a | 0x8b, false) => 4,
        (2, 0x8a | 0x8b, true) => 8,
        _ => i64::from(size),
    }
}
