//! Random storing instructions: what is stored how, and every way to name an
//! address.

use super::Rng;

/// What the `reg` field of ModRM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reg {
    /// A general register.
    General,
    /// Part of the opcode.
    Digit(u8),
    /// A vector register.
    Vector,
    /// A mask register.
    Mask,
}

/// What the processor must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    Sse41,
    Movbe,
    Cx16,
    Avx,
    Avx2,
    F16c,
    Avx512,
    Vbmi2,
}

impl Needs {
    pub fn met(self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Sse41 => is_x86_feature_detected!("sse4.1"),
            Self::Movbe => is_x86_feature_detected!("movbe"),
            Self::Cx16 => is_x86_feature_detected!("cmpxchg16b"),
            Self::Avx => is_x86_feature_detected!("avx"),
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            Self::F16c => is_x86_feature_detected!("f16c"),
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            Self::Vbmi2 => is_x86_feature_detected!("avx512vbmi2"),
        }
    }
}

/// How much is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    Fixed(usize),
    /// 2, 4 or 8 by prefixes.
    Operand,
    /// The vector's length divided by this.
    Vector(usize),
}

/// How it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// A mandatory prefix, and whether REX.W is wanted (`None`: does not
    /// matter).
    Legacy(Option<u8>, Option<bool>),
    /// Map, pp, W (`None`: does not matter), lengths allowed (bits).
    Vex(u8, u8, Option<bool>, u8),
    /// The same, and whether a mask is allowed.
    Evex(u8, u8, Option<bool>, u8, bool),
}

impl Encoding {
    /// vmaskmov and vpmaskmov: a second vector register is the mask.
    pub fn has_vector_mask(self, opcode: u8) -> bool {
        matches!(self, Self::Vex(2, ..)) && matches!(opcode, 0x2e | 0x2f | 0x8e)
    }
}

/// A kind of storing instruction with ModRM.
#[derive(Debug, Clone)]
pub struct Form {
    pub encoding: Encoding,
    /// With the bytes of its map if legacy.
    pub opcode: Vec<u8>,
    pub reg: Reg,
    /// Bytes of the immediate; 9: as the operand, at most 4.
    pub immediate: usize,
    pub size: Size,
    pub lock: bool,
    /// Faults unless aligned to its size.
    pub aligned: bool,
    /// The register counts bits.
    pub bits: bool,
    pub needs: Needs,
    /// One-byte displacements count this much; zero: the size.
    pub scale: usize,
}

fn form(opcode: &[u8], reg: Reg, immediate: usize, size: Size) -> Form {
    Form {
        encoding: Encoding::Legacy(None, None),
        opcode: opcode.to_vec(),
        reg,
        immediate,
        size,
        lock: false,
        aligned: false,
        bits: false,
        needs: Needs::Nothing,
        scale: 0,
    }
}

fn general(list: &mut Vec<Form>) {
    use Reg::{Digit, General};
    use Size::{Fixed, Operand};
    let mut add = |form: Form, lock: bool| list.push(Form { lock, ..form });
    for opcode in (0..0x38).step_by(8) {
        add(form(&[opcode], General, 0, Fixed(1)), true);
        add(form(&[opcode + 1], General, 0, Operand), true);
    }
    for digit in 0..7 {
        add(form(&[0x80], Digit(digit), 1, Fixed(1)), true);
        add(form(&[0x81], Digit(digit), 9, Operand), true);
        add(form(&[0x83], Digit(digit), 1, Operand), true);
    }
    for digit in 0..8 {
        for (byte, wide, immediate) in [(0xc0, 0xc1, 1), (0xd0, 0xd1, 0), (0xd2, 0xd3, 0)] {
            add(form(&[byte], Digit(digit), immediate, Fixed(1)), false);
            add(form(&[wide], Digit(digit), immediate, Operand), false);
        }
    }
    // xchg, mov
    for (byte, wide, lock) in [(0x86, 0x87, true), (0x88, 0x89, false)] {
        add(form(&[byte], General, 0, Fixed(1)), lock);
        add(form(&[wide], General, 0, Operand), lock);
    }
    add(form(&[0xc6], Digit(0), 1, Fixed(1)), false);
    add(form(&[0xc7], Digit(0), 9, Operand), false);
    for digit in [2, 3] {
        add(form(&[0xf6], Digit(digit), 0, Fixed(1)), true);
        add(form(&[0xf7], Digit(digit), 0, Operand), true);
    }
    for digit in [0, 1] {
        add(form(&[0xfe], Digit(digit), 0, Fixed(1)), true);
        add(form(&[0xff], Digit(digit), 0, Operand), true);
    }
    for segment in [0, 2, 3, 4, 5] {
        add(form(&[0x8c], Digit(segment), 0, Fixed(2)), false);
    }
    for condition in 0x90..0xa0 {
        add(form(&[0x0f, condition], Digit(0), 0, Fixed(1)), false);
    }
    for opcode in [0xab, 0xb3, 0xbb] {
        let bits = form(&[0x0f, opcode], General, 0, Operand);
        add(Form { bits: true, ..bits }, true);
    }
    for digit in [5, 6, 7] {
        add(form(&[0x0f, 0xba], Digit(digit), 1, Operand), true);
    }
    for (opcode, immediate) in [(0xa4, 1), (0xa5, 0), (0xac, 1), (0xad, 0)] {
        add(form(&[0x0f, opcode], General, immediate, Operand), false);
    }
    for opcode in [0xb0, 0xc0] {
        add(form(&[0x0f, opcode], General, 0, Fixed(1)), true);
        add(form(&[0x0f, opcode + 1], General, 0, Operand), true);
    }
    let exchange = |wide, size, needs, aligned| Form {
        encoding: Encoding::Legacy(None, Some(wide)),
        needs,
        aligned,
        ..form(&[0x0f, 0xc7], Digit(1), 0, Fixed(size))
    };
    add(exchange(false, 8, Needs::Nothing, false), true);
    add(exchange(true, 16, Needs::Cx16, true), true);
    let movbe = form(&[0x0f, 0x38, 0xf1], General, 0, Operand);
    add(
        Form {
            needs: Needs::Movbe,
            ..movbe
        },
        false,
    );
    for (wide, size) in [(false, 4), (true, 8)] {
        let movnti = form(&[0x0f, 0xc3], General, 0, Fixed(size));
        let encoding = Encoding::Legacy(None, Some(wide));
        add(Form { encoding, ..movnti }, false);
    }
}

/// x87, MMX and SSE.
fn legacy(list: &mut Vec<Form>) {
    use Size::Fixed;
    for (opcode, digits, size) in [
        (0xd9, &[2, 3][..], 4),
        (0xdb, &[1, 2, 3], 4),
        (0xdd, &[1, 2, 3], 8),
        (0xdf, &[1, 2, 3], 2),
        (0xdb, &[7], 10),
        (0xdf, &[6], 10),
        (0xdf, &[7], 8),
        (0xd9, &[7], 2),
        (0xdd, &[7], 2),
    ] {
        for &digit in digits {
            list.push(form(&[opcode], Reg::Digit(digit), 0, Fixed(size)));
        }
    }
    let mut add = |prefix: u8, wide, opcode: &[u8], size, aligned, immediate, needs| {
        list.push(Form {
            encoding: Encoding::Legacy((prefix != 0).then_some(prefix), wide),
            aligned,
            needs,
            ..form(opcode, Reg::Vector, immediate, Fixed(size))
        });
    };
    for prefix in [0, 0x66] {
        add(prefix, None, &[0x0f, 0x11], 16, false, 0, Needs::Nothing);
        for opcode in [0x13, 0x17] {
            add(prefix, None, &[0x0f, opcode], 8, false, 0, Needs::Nothing);
        }
        for opcode in [0x29, 0x2b] {
            add(prefix, None, &[0x0f, opcode], 16, true, 0, Needs::Nothing);
        }
        for (wide, size) in [(false, 4), (true, 8)] {
            add(
                prefix,
                Some(wide),
                &[0x0f, 0x7e],
                size,
                false,
                0,
                Needs::Nothing,
            );
        }
    }
    add(0xf3, None, &[0x0f, 0x11], 4, false, 0, Needs::Nothing);
    add(0xf2, None, &[0x0f, 0x11], 8, false, 0, Needs::Nothing);
    add(0, None, &[0x0f, 0x7f], 8, false, 0, Needs::Nothing);
    add(0x66, None, &[0x0f, 0x7f], 16, true, 0, Needs::Nothing);
    add(0xf3, None, &[0x0f, 0x7f], 16, false, 0, Needs::Nothing);
    add(0x66, None, &[0x0f, 0xd6], 8, false, 0, Needs::Nothing);
    add(0, None, &[0x0f, 0xe7], 8, false, 0, Needs::Nothing);
    add(0x66, None, &[0x0f, 0xe7], 16, true, 0, Needs::Nothing);
    for (opcode, wide, size) in EXTRACT {
        add(
            0x66,
            wide,
            &[0x0f, 0x3a, opcode],
            size,
            false,
            1,
            Needs::Sse41,
        );
    }
    let stmxcsr = form(&[0x0f, 0xae], Reg::Digit(3), 0, Fixed(4));
    list.push(stmxcsr);
}

const EXTRACT: [(u8, Option<bool>, usize); 5] = [
    (0x14, None, 1),
    (0x15, None, 2),
    (0x16, Some(false), 4),
    (0x16, Some(true), 8),
    (0x17, None, 4),
];

/// AVX and AVX-512.
fn vector(list: &mut Vec<Form>) {
    use Size::{Fixed, Vector};
    let mut add = |encoding, opcode, reg, size, aligned, immediate, needs, scale| {
        list.push(Form {
            encoding,
            aligned,
            needs,
            scale,
            ..form(&[opcode], reg, immediate, size)
        });
    };
    let full = Vector(1);
    for pp in [0, 1] {
        for (opcode, aligned) in [(0x11, false), (0x29, true), (0x2b, true)] {
            add(
                Encoding::Vex(1, pp, None, 3),
                opcode,
                Reg::Vector,
                full,
                aligned,
                0,
                Needs::Avx,
                0,
            );
            let masked = opcode != 0x2b;
            let encoding = Encoding::Evex(1, pp, Some(pp == 1), 7, masked);
            add(
                encoding,
                opcode,
                Reg::Vector,
                full,
                aligned,
                0,
                Needs::Avx512,
                0,
            );
        }
        for opcode in [0x13, 0x17] {
            add(
                Encoding::Vex(1, pp, None, 1),
                opcode,
                Reg::Vector,
                Fixed(8),
                false,
                0,
                Needs::Avx,
                0,
            );
            let encoding = Encoding::Evex(1, pp, Some(pp == 1), 1, false);
            add(
                encoding,
                opcode,
                Reg::Vector,
                Fixed(8),
                false,
                0,
                Needs::Avx512,
                0,
            );
        }
    }
    for (pp, size) in [(2, 4), (3, 8)] {
        add(
            Encoding::Vex(1, pp, None, 1),
            0x11,
            Reg::Vector,
            Fixed(size),
            false,
            0,
            Needs::Avx,
            0,
        );
        let encoding = Encoding::Evex(1, pp, Some(pp == 3), 1, true);
        add(
            encoding,
            0x11,
            Reg::Vector,
            Fixed(size),
            false,
            0,
            Needs::Avx512,
            0,
        );
    }
    for (wide, size) in [(false, 4), (true, 8)] {
        let encoding = Encoding::Vex(1, 1, Some(wide), 1);
        add(
            encoding,
            0x7e,
            Reg::Vector,
            Fixed(size),
            false,
            0,
            Needs::Avx,
            0,
        );
        let encoding = Encoding::Evex(1, 1, Some(wide), 1, false);
        add(
            encoding,
            0x7e,
            Reg::Vector,
            Fixed(size),
            false,
            0,
            Needs::Avx512,
            0,
        );
    }
    for (pp, aligned) in [(1, true), (2, false)] {
        add(
            Encoding::Vex(1, pp, None, 3),
            0x7f,
            Reg::Vector,
            full,
            aligned,
            0,
            Needs::Avx,
            0,
        );
    }
    for (pp, aligned) in [(1, true), (2, false), (3, false)] {
        for wide in [false, true] {
            let encoding = Encoding::Evex(1, pp, Some(wide), 7, true);
            add(
                encoding,
                0x7f,
                Reg::Vector,
                full,
                aligned,
                0,
                Needs::Avx512,
                0,
            );
        }
    }
    add(
        Encoding::Vex(1, 1, None, 1),
        0xd6,
        Reg::Vector,
        Fixed(8),
        false,
        0,
        Needs::Avx,
        0,
    );
    add(
        Encoding::Vex(1, 1, None, 3),
        0xe7,
        Reg::Vector,
        full,
        true,
        0,
        Needs::Avx,
        0,
    );
    add(
        Encoding::Evex(1, 1, Some(false), 7, false),
        0xe7,
        Reg::Vector,
        full,
        true,
        0,
        Needs::Avx512,
        0,
    );
    add(
        Encoding::Vex(1, 0, None, 1),
        0xae,
        Reg::Digit(3),
        Fixed(4),
        false,
        0,
        Needs::Avx,
        0,
    );
    for (pp, wide, size) in [(0, false, 2), (0, true, 8), (1, false, 1), (1, true, 4)] {
        let encoding = Encoding::Vex(1, pp, Some(wide), 1);
        add(
            encoding,
            0x91,
            Reg::Mask,
            Fixed(size),
            false,
            0,
            Needs::Avx512,
            0,
        );
    }
    for opcode in [0x2e, 0x2f] {
        let encoding = Encoding::Vex(2, 1, Some(false), 3);
        add(encoding, opcode, Reg::Vector, full, false, 0, Needs::Avx, 0);
    }
    add(
        Encoding::Vex(2, 1, None, 3),
        0x8e,
        Reg::Vector,
        full,
        false,
        0,
        Needs::Avx2,
        0,
    );
    for (opcode, wide, size) in EXTRACT {
        let encoding = Encoding::Vex(3, 1, wide, 1);
        add(
            encoding,
            opcode,
            Reg::Vector,
            Fixed(size),
            false,
            1,
            Needs::Avx,
            0,
        );
        let encoding = Encoding::Evex(3, 1, wide, 1, false);
        add(
            encoding,
            opcode,
            Reg::Vector,
            Fixed(size),
            false,
            1,
            Needs::Avx512,
            0,
        );
    }
    for (opcode, needs) in [(0x19, Needs::Avx), (0x39, Needs::Avx2)] {
        let encoding = Encoding::Vex(3, 1, Some(false), 2);
        add(encoding, opcode, Reg::Vector, Fixed(16), false, 1, needs, 0);
        let encoding = Encoding::Evex(3, 1, None, 6, true);
        add(
            encoding,
            opcode,
            Reg::Vector,
            Fixed(16),
            false,
            1,
            Needs::Avx512,
            0,
        );
    }
    for opcode in [0x1b, 0x3b] {
        let encoding = Encoding::Evex(3, 1, None, 4, true);
        add(
            encoding,
            opcode,
            Reg::Vector,
            Fixed(32),
            false,
            1,
            Needs::Avx512,
            0,
        );
    }
    add(
        Encoding::Vex(3, 1, Some(false), 3),
        0x1d,
        Reg::Vector,
        Vector(2),
        false,
        1,
        Needs::F16c,
        0,
    );
    let encoding = Encoding::Evex(3, 1, Some(false), 7, true);
    add(
        encoding,
        0x1d,
        Reg::Vector,
        Vector(2),
        false,
        1,
        Needs::Avx512,
        0,
    );
    for (opcode, wide, scale, needs) in [
        (0x8a, false, 4, Needs::Avx512),
        (0x8a, true, 8, Needs::Avx512),
        (0x8b, false, 4, Needs::Avx512),
        (0x8b, true, 8, Needs::Avx512),
        (0x63, false, 1, Needs::Vbmi2),
        (0x63, true, 2, Needs::Vbmi2),
    ] {
        let encoding = Encoding::Evex(2, 1, Some(wide), 7, true);
        add(encoding, opcode, Reg::Vector, full, false, 0, needs, scale);
    }
    for high in [0x10, 0x20, 0x30] {
        for (low, divide) in [(0, 2), (1, 4), (2, 8), (3, 2), (4, 4), (5, 2)] {
            let encoding = Encoding::Evex(2, 2, Some(false), 7, true);
            let size = Vector(divide);
            add(
                encoding,
                high + low,
                Reg::Vector,
                size,
                false,
                0,
                Needs::Avx512,
                0,
            );
        }
    }
}

/// Every kind which this processor has.
pub fn all() -> Vec<Form> {
    let mut list = Vec::new();
    general(&mut list);
    legacy(&mut list);
    vector(&mut list);
    list.retain(|form| form.needs.met());
    list
}

/// Prefixes and fields which are not the form's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice {
    /// 2, 4 or 8.
    pub operand: usize,
    pub wide: bool,
    /// 0, 1, 2 for 128, 256, 512 bits.
    pub length: u8,
    pub reg: u8,
    pub mask: u8,
    pub second: u8,
    pub lock: bool,
    pub rex: bool,
    /// A segment prefix, or zero.
    pub segment: u8,
    pub narrow: bool,
}

impl Form {
    /// Chooses the fields.
    pub fn choose(&self, rng: &mut Rng) -> Choice {
        let mut choice = Choice {
            operand: [2, 4, 8][rng.below(3)],
            wide: rng.below(2) == 0,
            rex: rng.below(3) == 0,
            lock: self.lock && rng.below(3) == 0,
            ..Choice::default()
        };
        let (allowed, masked) = match self.encoding {
            Encoding::Legacy(_, wide) => {
                choice.wide = wide.unwrap_or(choice.operand == 8);
                (1, false)
            }
            Encoding::Vex(_, _, wide, allowed) => {
                choice.wide = wide.unwrap_or(choice.wide);
                (allowed, false)
            }
            Encoding::Evex(_, _, wide, allowed, masked) => {
                choice.wide = wide.unwrap_or(choice.wide);
                (allowed, masked)
            }
        };
        choice.length = loop {
            let length = rng.below(3);
            if allowed >> length & 1 != 0 {
                break length as u8;
            }
        };
        if masked && rng.below(2) == 0 {
            choice.mask = rng.below(8) as u8;
        }
        if self.encoding.has_vector_mask(self.opcode[0]) {
            choice.second = rng.below(16) as u8;
        }
        choice.reg = match self.reg {
            Reg::Digit(digit) => digit,
            Reg::Mask => rng.below(8) as u8,
            Reg::Vector if matches!(self.encoding, Encoding::Evex(..)) => rng.below(32) as u8,
            // Of MMX there are eight, the ninth bit does not count.
            Reg::Vector => rng.below(16) as u8,
            Reg::General => loop {
                let reg = rng.below(16) as u8;
                // The stack pointer is left to the page.
                if reg != 4 {
                    break reg;
                }
            },
        };
        choice
    }

    /// Bytes stored, at most.
    pub fn bytes(&self, choice: &Choice) -> usize {
        match self.size {
            Size::Fixed(bytes) => bytes,
            Size::Operand if choice.wide => 8,
            Size::Operand => choice.operand.min(4),
            Size::Vector(divide) => (16 << choice.length) / divide,
        }
    }

    /// What a displacement of one byte is multiplied with.
    pub fn scale(&self, choice: &Choice) -> i64 {
        match self.encoding {
            Encoding::Evex(..) if self.scale != 0 => self.scale as i64,
            Encoding::Evex(..) => self.bytes(choice) as i64,
            _ => 1,
        }
    }

    /// The instruction; `modrm` is ModRM without its reg field, SIB and
    /// displacement, `x` and `b` extend index and base.
    pub fn encode(&self, c: &Choice, modrm: &[u8], x: bool, b: bool, rng: &mut Rng) -> Vec<u8> {
        let mut code = Vec::new();
        if c.segment != 0 {
            code.push(c.segment);
        }
        if c.narrow {
            code.push(0x67);
        }
        let bit = |set: bool, at: u8| u8::from(set) << at;
        match self.encoding {
            Encoding::Legacy(prefix, _) => {
                if c.lock {
                    code.push(0xf0);
                }
                if self.size == Size::Operand && c.operand == 2 {
                    code.push(0x66);
                }
                code.extend(prefix);
                let rex = bit(c.wide, 3) | bit(c.reg > 7, 2) | bit(x, 1) | bit(b, 0);
                if rex != 0 || c.rex {
                    code.push(0x40 | rex);
                }
                code.extend(&self.opcode);
            }
            Encoding::Vex(map, pp, ..) => {
                let last = (!c.second & 15) << 3 | c.length << 2 | pp;
                let high = bit(c.reg < 8, 7);
                if map == 1 && !x && !b && !c.wide && c.rex {
                    code.extend([0xc5, high | last]);
                } else {
                    code.extend([0xc4, high | bit(!x, 6) | bit(!b, 5) | map]);
                    code.push(bit(c.wide, 7) | last);
                }
                code.extend(&self.opcode);
            }
            Encoding::Evex(map, pp, ..) => {
                let first = bit(c.reg & 8 == 0, 7) | bit(!x, 6) | bit(!b, 5);
                code.extend([0x62, first | bit(c.reg < 16, 4) | map]);
                code.push(bit(c.wide, 7) | 0x7c | pp);
                code.push(c.length << 5 | 8 | c.mask);
                code.extend(&self.opcode);
            }
        }
        code.push(modrm[0] | (c.reg & 7) << 3);
        code.extend(&modrm[1..]);
        let immediate = match (self.immediate, self.bytes(c)) {
            (9, 2) => 2,
            (9, _) => 4,
            (fixed, _) => fixed,
        };
        code.extend((0..immediate).map(|_| rng.below(256) as u8));
        code
    }
}
