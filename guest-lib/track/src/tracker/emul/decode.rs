// SPDX-License-Identifier: MIT OR Apache-2.0
//! Taking a storing instruction apart: its address, and a copy of it which
//! stores somewhere else.
//!
//! The copy differs from the original in its address only, which is one
//! register: `rsi`, or `rdi` if the instruction names `rsi` (no instruction
//! of the list names both), or the `rdi` which it uses anyway.
//!
//! Pure; everything here is async-signal-safe.

use super::table::{self, Encoding, Place, Prefixes, Reg, Shape, State};

/// Longest instruction in bytes.
pub(super) const LONGEST: usize = 15;
pub(super) const RSP: u8 = 4;
pub(super) const RSI: u8 = 6;
pub(super) const RDI: u8 = 7;

/// An address as an instruction names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Address {
    /// Number of the register.
    pub(super) base: Option<u8>,
    /// Number of the register, and the power of two it is multiplied with.
    pub(super) index: Option<(u8, u8)>,
    pub(super) displacement: i64,
    /// The address of the next instruction is added.
    pub(super) relative: bool,
    /// Only 32 bits of the sum count.
    pub(super) narrow: bool,
    /// 64 (FS) or 65 (GS), or zero.
    pub(super) segment: u8,
}

/// A storing instruction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Store {
    /// Bytes of the instruction.
    pub(super) length: u8,
    pub(super) shape: Shape,
    pub(super) address: Address,
    /// For [`Reg::BitOffset`].
    pub(super) reg: u8,
    /// Has a repeat prefix, and is a string instruction.
    pub(super) repeat: bool,
    /// The register which is the address of the copy.
    pub(super) pointer: u8,
    copy: [u8; LONGEST + 1],
    copied: u8,
}

impl Store {
    /// The copy's bytes, without anything which would end it.
    pub(super) fn copy(&self) -> &[u8] {
        &self.copy[..usize::from(self.copied)]
    }

    fn put(&mut self, byte: u8) -> Option<()> {
        *self.copy.get_mut(usize::from(self.copied))? = byte;
        self.copied += 1;
        Some(())
    }
}

/// Reads an instruction byte by byte, so that nothing behind it is touched.
struct Bytes<F> {
    fetch: F,
    at: u8,
}

impl<F: Fn(u8) -> u8> Bytes<F> {
    fn next(&mut self) -> Option<u8> {
        if usize::from(self.at) == LONGEST {
            return None;
        }
        let byte = (self.fetch)(self.at);
        self.at += 1;
        Some(byte)
    }

    /// A little-endian number of 1, 4 or 8 bytes, sign-extended.
    fn number(&mut self, bytes: u8) -> Option<i64> {
        let mut value = 0_u64;
        for byte in 0..u32::from(bytes) {
            value |= u64::from(self.next()?) << (8 * byte);
        }
        let unused = 64 - 8 * u32::from(bytes);
        Some((value << unused).cast_signed() >> unused)
    }
}

/// Takes apart the instruction whose byte at offset `n` is `fetch(n)`.
///
/// `None` if it is not known to store to memory in a way which the copy can
/// repeat.
pub(super) fn decode(fetch: impl Fn(u8) -> u8) -> Option<Store> {
    let mut bytes = Bytes { fetch, at: 0 };
    let (mut p, first) = prefixes(&mut bytes)?;
    let mut vex = [0_u8; 4];
    let mut vex_length = 0_usize;
    let (map, opcode) = match first {
        0xc4 | 0xc5 | 0x62 => {
            vex_length = match first {
                0xc5 => 2,
                0xc4 => 3,
                _ => 4,
            };
            vex[0] = first;
            for byte in &mut vex[1..vex_length] {
                *byte = bytes.next()?;
            }
            (extended(&mut p, &vex)?, bytes.next()?)
        }
        0x0f => match bytes.next()? {
            0x38 => (2, bytes.next()?),
            0x3a => (3, bytes.next()?),
            opcode => (1, opcode),
        },
        opcode => (0, opcode),
    };
    let mut store = Store {
        length: 0,
        shape: Shape {
            size: 0,
            immediate: 0,
            reg: Reg::Other,
            state: State::Unused,
            place: Place::ModRm,
        },
        address: Address::default(),
        reg: 0,
        repeat: false,
        pointer: RSI,
        copy: [0; LONGEST + 1],
        copied: 0,
    };
    if map == 0 && matches!(opcode, 0xa2..=0xa5 | 0xaa | 0xab) {
        store.shape = table::lookup(&p, 0, opcode, 0, false)?;
        implicit(&mut store, &mut bytes, &p, opcode)?;
    } else {
        let modrm = bytes.next()?;
        let field = modrm >> 3 & 7;
        store.shape = table::lookup(&p, map, opcode, field, modrm >> 6 == 3)?;
        // rsp in the copy would be the handler's.
        let eight_bits = store.shape.size == 1 && p.rex == 0;
        store.reg = field | u8::from(p.r) << 3;
        if store.shape.reg != Reg::Other && store.reg == RSP && !eight_bits {
            return None;
        }
        let rdi = store.shape.place == Place::Rdi;
        if rdi {
            store.address.base = Some(RDI);
            store.address.narrow = p.address32;
            store.address.segment = p.segment;
        } else {
            let scale = table::disp8_scale(&p, map, opcode, store.shape.size);
            store.address = address(&mut bytes, &p, modrm, scale)?;
        }
        if rdi || store.shape.reg != Reg::Other && store.reg == RSI {
            store.pointer = RDI;
        }
        opening(&mut store, &p, &vex[..vex_length], map)?;
        store.put(opcode)?;
        store.put(if rdi {
            modrm
        } else {
            modrm & 0x38 | store.pointer
        })?;
        for _ in 0..store.shape.immediate {
            let byte = bytes.next()?;
            store.put(byte)?;
        }
    }
    store.length = bytes.at;
    Some(store)
}

/// Legacy prefixes and REX; also returns the byte behind them.
fn prefixes<F: Fn(u8) -> u8>(bytes: &mut Bytes<F>) -> Option<(Prefixes, u8)> {
    let mut p = Prefixes {
        encoding: Encoding::Legacy,
        data16: false,
        address32: false,
        lock: false,
        repeat: 0,
        segment: 0,
        rex: 0,
        w: false,
        r: false,
        x: false,
        b: false,
        length: 0,
    };
    loop {
        let byte = bytes.next()?;
        match byte {
            0x66 => p.data16 = true,
            0x67 => p.address32 = true,
            0xf0 => p.lock = true,
            0xf2 | 0xf3 => p.repeat = byte,
            0x64 | 0x65 => p.segment = byte,
            // Without effect in 64-bit mode.
            0x26 | 0x2e | 0x36 | 0x3e => {}
            0x40..=0x4f => {
                p.rex = byte;
                continue;
            }
            _ => {
                p.w = p.rex & 8 != 0;
                p.r = p.rex & 4 != 0;
                p.x = p.rex & 2 != 0;
                p.b = p.rex & 1 != 0;
                return Some((p, byte));
            }
        }
        // REX counts right before the opcode only.
        p.rex = 0;
    }
}

/// VEX or EVEX; returns the opcode map.
fn extended(p: &mut Prefixes, vex: &[u8; 4]) -> Option<u8> {
    if p.data16 || p.repeat != 0 || p.lock || p.rex != 0 {
        return None;
    }
    p.r = vex[1] & 0x80 == 0;
    let (map, last) = match vex[0] {
        0xc5 => (1, vex[1]),
        _ => {
            p.x = vex[1] & 0x40 == 0;
            p.b = vex[1] & 0x20 == 0;
            p.w = vex[2] & 0x80 != 0;
            (vex[1] & if vex[0] == 0xc4 { 0x1f } else { 0xf }, vex[2])
        }
    };
    if vex[0] == 0x62 {
        p.encoding = Encoding::Evex;
        p.length = vex[3] >> 5 & 3;
        // A bit which is always set, and broadcast, which no store has.
        if last & 4 == 0 || vex[3] & 0x10 != 0 || p.length == 3 {
            return None;
        }
    } else {
        p.encoding = Encoding::Vex;
        p.length = last >> 2 & 1;
    }
    match last & 3 {
        1 => p.data16 = true,
        2 => p.repeat = 0xf3,
        3 => p.repeat = 0xf2,
        _ => {}
    }
    (1..=3).contains(&map).then_some(map)
}

/// The operand in memory of ModRM; one-byte displacements count `scale`.
fn address<F: Fn(u8) -> u8>(
    bytes: &mut Bytes<F>,
    p: &Prefixes,
    modrm: u8,
    scale: i64,
) -> Option<Address> {
    let mode = modrm >> 6;
    let mut address = Address {
        narrow: p.address32,
        segment: p.segment,
        ..Address::default()
    };
    let mut low = modrm & 7;
    if low == 4 {
        let sib = bytes.next()?;
        let index = sib >> 3 & 7 | u8::from(p.x) << 3;
        if index != RSP {
            address.index = Some((index, sib >> 6));
        }
        low = sib & 7;
        if !(low == 5 && mode == 0) {
            address.base = Some(low | u8::from(p.b) << 3);
        }
    } else if low == 5 && mode == 0 {
        address.relative = true;
    } else {
        address.base = Some(low | u8::from(p.b) << 3);
    }
    address.displacement = match mode {
        1 => bytes.number(1)? * scale,
        2 => bytes.number(4)?,
        _ if low == 5 && address.base.is_none() => bytes.number(4)?,
        _ => 0,
    };
    Some(address)
}

/// Everything of the copy which stands before its opcode.
fn opening(store: &mut Store, p: &Prefixes, vex: &[u8], map: u8) -> Option<()> {
    match vex {
        [] => {
            if p.data16 {
                store.put(0x66)?;
            }
            if p.lock {
                store.put(0xf0)?;
            }
            if p.repeat != 0 {
                store.put(p.repeat)?;
            }
            if p.rex != 0 {
                // The pointer is one of the low eight, and so is the rax of
                // an absolute address.
                let keep = match store.shape.place {
                    Place::Rdi => 0xff,
                    Place::Moffs => !7,
                    _ => !3,
                };
                store.put(p.rex & keep)?;
            }
            if map > 0 {
                store.put(0x0f)?;
            }
            if map > 1 {
                store.put(if map == 2 { 0x38 } else { 0x3a })?;
            }
        }
        [first, rest @ ..] => {
            store.put(*first)?;
            for (index, byte) in rest.iter().enumerate() {
                // X and B are stored inverted.
                let low = index == 0 && *first != 0xc5 && store.shape.place != Place::Rdi;
                store.put(byte | if low { 0x60 } else { 0 })?;
            }
        }
    }
    Some(())
}

/// Instructions without ModRM: mov to an absolute address, and strings.
fn implicit<F: Fn(u8) -> u8>(
    store: &mut Store,
    bytes: &mut Bytes<F>,
    p: &Prefixes,
    opcode: u8,
) -> Option<()> {
    if p.lock {
        return None;
    }
    if store.shape.place == Place::Moffs {
        if p.address32 {
            return None;
        }
        store.address.segment = p.segment;
        store.address.displacement = bytes.number(8)?;
        // The same mov with ModRM; the register is rax.
        opening(store, p, &[], 0)?;
        store.put(opcode - 0xa2 + 0x88)?;
        return store.put(RSI);
    }
    // Registers of 32 bits would not reach the copy's address, and a segment
    // is that of the source only.
    if p.address32 || p.segment != 0 {
        return None;
    }
    store.address.base = Some(RDI);
    store.pointer = RDI;
    store.repeat = p.repeat != 0;
    opening(store, p, &[], 0)?;
    store.put(opcode)
}
