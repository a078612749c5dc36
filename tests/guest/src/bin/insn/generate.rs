// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random storing instructions, with registers that lead them into the area.
//!
//! Bytes are drawn at random, an independent decoder (iced-x86) says what
//! they are, and every kind of instruction is then drawn as often as any
//! other.

use std::collections::BTreeMap;

use iced_x86::{
    CodeSize, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction,
    InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, UsedMemory,
};

use super::machine::{
    ALIGNMENT, ARITHMETIC, Code, DIRECTION, EXTENDED, FCW, HEADER, MXCSR, Machine, SOFTWARE, ST,
    WAY_OUT, WIDE, XMM,
};
use super::{AREA, PAGE};
use hvckpt_guest_tests::Rng;

/// Encodings kept of each kind.
const ENCODINGS: usize = 40;
/// Longest instruction in bytes.
const LONGEST: usize = 15;

/// Where things are.
pub struct World {
    /// The area, [`AREA`] bytes.
    pub area: u64,
    pub code: Code,
    /// Memory which is read only by instructions, as large as the area.
    pub scratch: u64,
    pub fs: u64,
    pub components: u64,
    pub mxcsr_mask: u32,
}

/// An instruction to be executed.
pub struct Case {
    kind: usize,
    encoding: usize,
    pub bytes: Vec<u8>,
    pub instruction: Instruction,
    pub machine: Machine,
    /// Bytes which may be written.
    pub written: Vec<core::ops::Range<u64>>,
    /// One of the stores lies in two pages.
    pub crosses: bool,
}

/// Kinds of instructions with their encodings.
pub struct Pool {
    kinds: Vec<Vec<[u8; LONGEST + 1]>>,
    infos: InstructionInfoFactory,
}

fn byte(rng: &mut Rng) -> u8 {
    rng.draw().to_le_bytes()[7]
}

fn one_in(rng: &mut Rng, n: usize) -> bool {
    rng.below(n) == 0
}

/// Bytes which are likely to be an instruction.
fn draw(rng: &mut Rng) -> [u8; LONGEST + 1] {
    let mut bytes = Vec::new();
    for prefix in [0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x64, 0x65, 0x2e] {
        if one_in(rng, 8) {
            bytes.push(prefix);
        }
    }
    match rng.below(8) {
        0 => bytes = vec![0xc5, byte(rng)],
        1 => bytes = vec![0xc4, byte(rng) & 0xe0 | byte(rng) & 3, byte(rng)],
        2 => {
            let (first, second) = (byte(rng) & 0xf3, byte(rng) | 4);
            bytes = vec![0x62, first, second, byte(rng) & 0xef];
        }
        n => {
            if one_in(rng, 3) {
                bytes.push(0x40 | byte(rng) & 0xf);
            }
            match n {
                3 | 4 => bytes.push(0x0f),
                5 => bytes.extend([0x0f, if one_in(rng, 2) { 0x38 } else { 0x3a }]),
                _ => {}
            }
        }
    }
    let mut code = [0; LONGEST + 1];
    code.iter_mut().for_each(|b| *b = byte(rng));
    code[..bytes.len()].copy_from_slice(&bytes);
    code
}

fn decode(bytes: &[u8], at: u64) -> Option<(Instruction, iced_x86::ConstantOffsets)> {
    let mut decoder = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE);
    let instruction = decoder.decode();
    let good = decoder.last_error() == DecoderError::None && !instruction.is_invalid();
    good.then(|| (instruction, decoder.get_constant_offsets(&instruction)))
}

fn writes(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

/// Storing instructions which are of no use here: they do not go on behind
/// themselves, belong to kernels, scatter, or store what a second execution of
/// the same would not.
fn unsuitable(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    instruction.flow_control() != FlowControl::Next
        || instruction.is_privileged()
        || instruction.is_vsib()
        || matches!(
            instruction.mnemonic(),
            // Descriptor tables, which kernels emulate or refuse.
            M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw
            // Ports.
            | M::Insb | M::Insw | M::Insd
            // What is in use of the state, and where the x87 was.
            | M::Xsave | M::Xsave64 | M::Xsavec | M::Xsavec64 | M::Xsaveopt | M::Xsaveopt64
            | M::Fnsave | M::Fnstenv
        )
}

// These follow each other in the processor's order.
const _: () = assert!(Register::R15 as usize - Register::RAX as usize == 15);

/// The number of the general register of which this one is a part.
fn full(register: Register) -> Option<usize> {
    register
        .is_gpr()
        .then(|| register.full_register() as usize - Register::RAX as usize)
}

pub fn is_string(instruction: &Instruction) -> bool {
    instruction.is_string_instruction()
}

impl Pool {
    /// `only`: one mnemonic, however it is written.
    pub fn new(rng: &mut Rng, draws: usize, only: Option<&str>) -> Self {
        let other = |mnemonic: Mnemonic| {
            only.is_some_and(|only| !format!("{mnemonic:?}").eq_ignore_ascii_case(only))
        };
        let mut kinds: BTreeMap<usize, Vec<_>> = BTreeMap::new();
        let mut infos = InstructionInfoFactory::new();
        for _ in 0..draws {
            let bytes = draw(rng);
            let Some((instruction, _)) = decode(&bytes[..LONGEST], 0) else {
                continue;
            };
            if unsuitable(&instruction) || other(instruction.mnemonic()) {
                continue;
            }
            let known = kinds.get(&(instruction.code() as usize));
            if known.is_some_and(|list| list.len() >= ENCODINGS) {
                continue;
            }
            let info = infos.info(&instruction);
            if info.used_memory().iter().any(|m| writes(m.access())) {
                let list = kinds.entry(instruction.code() as usize).or_default();
                list.push(bytes);
            }
        }
        Self {
            kinds: kinds.into_values().collect(),
            infos,
        }
    }

    pub fn kinds(&self) -> usize {
        self.kinds.len()
    }

    /// This processor does not have it.
    pub fn remove(&mut self, case: &Case) {
        let list = &mut self.kinds[case.kind];
        list.swap_remove(case.encoding);
        if list.is_empty() {
            self.kinds.swap_remove(case.kind);
        }
    }

    /// A case, or nothing if this one would not stay inside the area.  `memory`
    /// is what is there.
    pub fn case(&mut self, rng: &mut Rng, world: &World, memory: &[u8]) -> Option<Case> {
        let kind = rng.below(self.kinds.len());
        let list = &self.kinds[kind];
        let encoding = rng.below(list.len());
        let mut bytes = list[encoding];
        let at = world.code.0 as u64 + rng.below(2 * PAGE - LONGEST - WAY_OUT) as u64;
        let mut machine = Machine::new(world.components);
        machine.code = at;
        random_registers(rng, &mut machine);
        machine.general[4] = world.scratch + 2 * PAGE as u64 + 8 * rng.below(64) as u64;
        random_state(rng, world, &mut machine.extended);

        let (instruction, offsets) = decode(&bytes[..LONGEST], at)?;
        let immediate = offsets.immediate_offset();
        match instruction.mnemonic() {
            // No more than a push and a move.
            Mnemonic::Enter => bytes[immediate..immediate + 3].fill(0),
            // What is shifted by more than there is, is undefined.
            Mnemonic::Shld | Mnemonic::Shrd | Mnemonic::Rcl | Mnemonic::Rcr
                if offsets.has_immediate() =>
            {
                let bits = 8 * instruction.memory_size().size();
                bytes[immediate] = u8::try_from(usize::from(bytes[immediate]) % (bits + 1)).ok()?;
            }
            // There are few encodings of each kind, of either sign by chance.
            Mnemonic::Mov => bytes[immediate..immediate + offsets.immediate_size()]
                .iter_mut()
                .for_each(|b| *b = byte(rng)),
            _ => {}
        }
        let memories = self.infos.info(&instruction).used_memory().to_vec();
        let mut setup = Setup {
            rng,
            world,
            machine: &mut machine,
            bytes: &mut bytes,
            fixed: 0,
            gs_fixed: false,
        };
        let first = memories.iter().find(|m| writes(m.access()))?;
        let size = size_of_store(&instruction, first);
        let target = setup.target(&instruction, size);
        setup.lead(&instruction, &offsets, first, target)?;
        for read in memories.iter().filter(|m| !writes(m.access())) {
            let start = if setup.rng.below(2) == 0 {
                world.scratch
            } else {
                world.area
            };
            let source = start + (2 * PAGE + setup.rng.below(4 * PAGE)) as u64;
            // What it needs may be taken: then it reads there, or fails.
            let _unled = setup.lead(&instruction, &offsets, read, source);
        }
        setup.operands(&instruction, target, size, memory);
        let elements = setup.count(&instruction, size);

        // The displacement may have been changed.
        let (instruction, _) = decode(&bytes[..LONGEST], at)?;
        let memories = self.infos.info(&instruction).used_memory();
        let mut written = Vec::new();
        let mut crosses = false;
        let area = world.area..world.area + AREA as u64;
        for memory in memories.iter().filter(|m| writes(m.access())) {
            let size = size_of_store(&instruction, memory) as u64;
            let mut start = address(world, &machine, &instruction, memory);
            if instruction.mnemonic() == Mnemonic::Clzero {
                start &= !63;
            }
            start = start.wrapping_add(beyond(&machine, &instruction));
            if elements == 0 {
                continue;
            }
            let down = is_string(&instruction) && machine.flags & DIRECTION != 0;
            let more = size * (elements - 1);
            let first = if down {
                start.wrapping_sub(more)
            } else {
                start
            };
            let end = first.checked_add(more + size)?;
            if first < area.start || end > area.end {
                return None;
            }
            let page = PAGE as u64;
            let mut element = first;
            for _ in 0..elements {
                crosses |= element / page != (element + size - 1) / page;
                element += size;
            }
            written.push(first..end);
        }
        if crosses && left_out_across_pages(&instruction)
            || ineffective_rex(&bytes)
            || undefined(&instruction, &bytes, &machine)
        {
            return None;
        }
        Some(Case {
            kind,
            encoding,
            bytes: bytes[..instruction.len()].to_vec(),
            instruction,
            machine,
            written,
            crosses,
        })
    }
}

/// Stores which QEMU's CPU does not perform rightly across pages: locked ones
/// lose flags, and those of ten bytes hit the next page of physical memory.
fn left_out_across_pages(instruction: &Instruction) -> bool {
    instruction.has_lock_prefix()
        || matches!(instruction.mnemonic(), Mnemonic::Xchg | Mnemonic::Fbstp)
        || instruction.code() == iced_x86::Code::Fstp_m80fp
}

/// Whether a REX prefix stands before another one, which takes its effect away;
/// not in QEMU's CPU.  (That `emul` knows it is tested with its decoder.)
fn ineffective_rex(bytes: &[u8]) -> bool {
    const LEGACY: [u8; 11] = [
        0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3,
    ];
    let mut rex = false;
    for byte in bytes {
        if LEGACY.contains(byte) {
            if rex {
                return true;
            }
        } else if byte & 0xf0 == 0x40 {
            rex = true;
        } else {
            break;
        }
    }
    false
}

/// What CPUs need not agree on, or an emulated one does not do as a real one:
/// double shifts of 16 bits by more, selectors named with REX.R, and `movbe`
/// of 64 bits with a prefix for 16.
fn undefined(instruction: &Instruction, bytes: &[u8], machine: &Machine) -> bool {
    const REX_R: u8 = 0x44;
    match instruction.mnemonic() {
        Mnemonic::Shld | Mnemonic::Shrd => {
            let by_cl = instruction.op_kind(2) == OpKind::Register;
            let bits = 8 * instruction.memory_size().size() as u64;
            by_cl && machine.general[1] & 31 > bits
        }
        Mnemonic::Mov => {
            let selector = instruction.op_kind(1) == OpKind::Register
                && instruction.op_register(1).is_segment_register();
            let mut pairs = bytes.windows(2);
            selector && pairs.any(|pair| pair[1] == 0x8c && pair[0] & (0xf0 | REX_R) == REX_R)
        }
        Mnemonic::Movbe => instruction.memory_size().size() == 8 && bytes.contains(&0x66),
        _ => false,
    }
}

/// Bytes of one store.
fn size_of_store(instruction: &Instruction, memory: &UsedMemory) -> usize {
    match instruction.mnemonic() {
        // Information about masked moves is about the register.
        Mnemonic::Maskmovq => 8,
        Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu => 16,
        Mnemonic::Clzero => 64,
        _ if is_string(instruction) => instruction.memory_size().size(),
        _ => memory.memory_size().size().max(1),
    }
}

fn segment(world: &World, machine: &Machine, register: Register) -> u64 {
    match register {
        Register::FS => world.fs,
        Register::GS => machine.gs,
        _ => 0,
    }
}

fn relative(instruction: &Instruction, memory: &UsedMemory) -> bool {
    instruction.is_ip_rel_memory_operand() && full(memory.base()).is_none()
}

fn address(
    world: &World,
    machine: &Machine,
    instruction: &Instruction,
    memory: &UsedMemory,
) -> u64 {
    let general = |register| full(register).map_or(0, |number| machine.general[number]);
    let mut sum = memory.displacement();
    if !relative(instruction, memory) {
        let index = general(memory.index()).wrapping_mul(memory.scale().into());
        sum = sum.wrapping_add(general(memory.base())).wrapping_add(index);
    }
    if memory.address_size() == CodeSize::Code32 {
        sum &= 0xffff_ffff;
    }
    sum.wrapping_add(segment(world, machine, memory.segment()))
}

fn counts_bits(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(instruction.mnemonic(), M::Bts | M::Btr | M::Btc)
        && instruction.op_kind(1) == OpKind::Register
}

/// How far from its address a bit instruction stores.
fn beyond(machine: &Machine, instruction: &Instruction) -> u64 {
    if !counts_bits(instruction) {
        return 0;
    }
    let register = instruction.op_register(1);
    let bits = 8 * u32::try_from(register.size()).unwrap_or(8);
    let value = full(register).map_or(0, |number| machine.general[number]) << (64 - bits);
    let units = (value.cast_signed() >> (64 - bits)).div_euclid(bits.into());
    (units * i64::from(bits / 8)).cast_unsigned()
}

fn random_registers(rng: &mut Rng, machine: &mut Machine) {
    for register in &mut machine.general {
        let value = rng.draw();
        *register = match rng.below(8) {
            0 => value & 0xff,
            1 => [
                0,
                1,
                u64::MAX,
                1 << 63,
                i64::MAX.cast_unsigned(),
                0x80,
                0x7fff,
            ][rng.below(7)],
            2 => value >> 32,
            _ => value,
        };
    }
    machine.flags = 0x202 | rng.draw() & ARITHMETIC;
    if one_in(rng, 3) {
        machine.flags |= DIRECTION;
    }
    if one_in(rng, 24) {
        machine.flags |= ALIGNMENT;
    }
    // Where processes may have it.
    machine.gs = rng.draw() >> 18;
}

fn random_state(rng: &mut Rng, world: &World, state: &mut [u8; EXTENDED]) {
    fn put(state: &mut [u8; EXTENDED], at: usize, value: u64, bytes: usize) {
        state[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }
    state[..SOFTWARE].fill(0);
    let masked = !one_in(rng, 16);
    let precision = [0, 0x200, 0x300, 0x300][rng.below(4)];
    let mut control = 0x7f | precision | rng.draw() & 0xc00;
    let mut status = rng.draw() & 0x7f00;
    if masked {
        status |= rng.draw() & 0x3f;
    } else {
        control &= !(rng.draw() & 0x3f);
    }
    put(state, FCW, control, 2);
    put(state, FCW + 2, status, 2);
    let tags = if one_in(rng, 4) { rng.draw() } else { 0xff };
    put(state, FCW + 4, tags, 1);
    let mut mxcsr = 0x1f80 | rng.draw() & u64::from(world.mxcsr_mask) & 0xe07f;
    if one_in(rng, 16) {
        // Pending exceptions do not fault, new ones do.
        mxcsr &= !(rng.draw() & 0x1f80);
    }
    put(state, MXCSR, mxcsr, 4);
    for register in 0..8 {
        let at = ST + 16 * register;
        let mantissa = rng.draw();
        if one_in(rng, 4) {
            put(state, at, mantissa, 8);
            put(state, at + 8, rng.draw(), 2);
        } else {
            // Numbers which fit into integers, or nearly.
            let sign = rng.draw() & 0x8000;
            put(state, at, mantissa | 1 << 63, 8);
            put(state, at + 8, (16383 + rng.below(66) as u64) | sign, 2);
        }
    }
    for at in (XMM..SOFTWARE).step_by(8) {
        put(state, at, rng.draw(), 8);
    }
    if world.components != 0 {
        state[HEADER..WIDE].fill(0);
        put(state, HEADER, world.components, 8);
        // Beyond SSE there are registers and nothing else.
        if world.components & !3 != 0 {
            for at in (WIDE..EXTENDED).step_by(8) {
                put(state, at, rng.draw(), 8);
            }
        }
    }
}

/// Makes an instruction hit.
struct Setup<'a> {
    rng: &'a mut Rng,
    world: &'a World,
    machine: &'a mut Machine,
    bytes: &'a mut [u8; LONGEST + 1],
    /// A bit for each register which must stay.
    fixed: u16,
    gs_fixed: bool,
}

impl Setup<'_> {
    /// Where to store `size` bytes: with two pages on both sides.
    fn target(&mut self, instruction: &Instruction, size: usize) -> u64 {
        let rng = &mut self.rng;
        let align = if size.is_power_of_two() {
            size.min(64)
        } else {
            16
        };
        let offset = match rng.below(8) {
            0..=3 => rng.below(PAGE / align) * align,
            4 | 5 => rng.below(PAGE),
            6 => PAGE - 1 - rng.below(size.min(64) + 8),
            _ => rng.below(16),
        };
        let offset = if instruction.mnemonic() == Mnemonic::Clzero {
            offset & !63
        } else {
            offset
        };
        self.world.area + (PAGE * (2 + rng.below(4)) + offset) as u64
    }

    fn is_fixed(&self, number: usize) -> bool {
        self.fixed & 1 << number != 0
    }

    fn fix(&mut self, number: usize, value: u64) {
        self.machine.general[number] = value;
        self.fixed |= 1 << number;
    }

    /// Sees to it that `memory` is at `target` or a few bytes behind.
    fn lead(
        &mut self,
        instruction: &Instruction,
        offsets: &iced_x86::ConstantOffsets,
        memory: &UsedMemory,
        target: u64,
    ) -> Option<()> {
        let narrow = memory.address_size() == CodeSize::Code32;
        let base = full(memory.base());
        let index = full(memory.index());
        let scale = u64::from(memory.scale());
        if memory.segment() == Register::GS && !self.gs_fixed {
            self.gs_fixed = true;
            // At times it takes part, at times it does all.
            if base.is_none() && index.is_none() && !relative(instruction, memory) || narrow {
                let sum = {
                    self.machine.gs = 0;
                    self.fixed |= base.map_or(0, |n| 1 << n) | index.map_or(0, |n| 1 << n);
                    address(self.world, self.machine, instruction, memory)
                };
                self.machine.gs = target.wrapping_sub(sum);
                return (self.machine.gs >> 47 == 0).then_some(());
            }
        }
        let bias = segment(self.world, self.machine, memory.segment());
        let need = target.wrapping_sub(bias);
        if narrow && need >> 32 != 0 {
            return None;
        }
        if relative(instruction, memory) {
            let next = self.machine.code + instruction.len() as u64;
            return self.displace(offsets, need.wrapping_sub(next));
        }
        let fixed = |number: Option<usize>| number.is_some_and(|n| self.is_fixed(n));
        if fixed(base) || fixed(index) {
            return None;
        }
        let mask = if narrow { 0xffff_ffff } else { u64::MAX };
        // The upper half does not count, and may be anything.
        let upper = if narrow { self.rng.draw() << 32 } else { 0 };
        let want = need.wrapping_sub(memory.displacement());
        match (base, index) {
            (Some(base), Some(index)) if base == index => {
                let times = 1 + scale;
                let want = want & mask;
                self.fix(base, want.div_ceil(times) | upper);
            }
            (Some(base), index) => {
                let mut rest = 0;
                if let Some(index) = index {
                    rest = self.machine.general[index].wrapping_mul(scale);
                    self.fixed |= 1 << index;
                }
                self.fix(base, want.wrapping_sub(rest) & mask | upper);
            }
            (None, Some(index)) => self.fix(index, (want & mask).div_ceil(scale) | upper),
            (None, None) => return self.displace(offsets, need),
        }
        Some(())
    }

    fn displace(&mut self, offsets: &iced_x86::ConstantOffsets, value: u64) -> Option<()> {
        let (at, size) = (offsets.displacement_offset(), offsets.displacement_size());
        let fits = match size {
            8 => true,
            4 => i32::try_from(value.cast_signed()).is_ok(),
            _ => false,
        };
        let bytes = value.to_le_bytes();
        fits.then(|| self.bytes[at..at + size].copy_from_slice(&bytes[..size]))
    }

    /// Values with which something happens.
    fn operands(&mut self, instruction: &Instruction, target: u64, size: usize, memory: &[u8]) {
        use Mnemonic as M;
        if counts_bits(instruction)
            && let Some(number) = full(instruction.op_register(1))
            && !self.is_fixed(number)
        {
            let bits = 8 * u32::try_from(instruction.op_register(1).size()).unwrap_or(8);
            let distance = self.rng.below(16 * 8 * PAGE) as u64;
            let offset = distance.wrapping_sub(8 * 8 * PAGE as u64);
            let garbage = if bits == 64 {
                0
            } else {
                self.rng.draw() << bits
            };
            let mask = u64::MAX >> (64 - bits);
            self.fix(number, offset & mask | garbage);
        }
        let here = usize::try_from(target - self.world.area).unwrap_or(0);
        let read = |at: usize, bytes: usize| {
            let mut value = [0; 8];
            let part = memory.get(at..at + bytes)?;
            value[..bytes].copy_from_slice(part);
            Some(u64::from_le_bytes(value))
        };
        // Half of all comparisons shall succeed.
        match instruction.mnemonic() {
            M::Cmpxchg if !self.is_fixed(0) && self.rng.below(2) == 0 => {
                let mask = u64::MAX >> (64 - 8 * size.min(8));
                if let Some(value) = read(here, size.min(8)) {
                    self.machine.general[0] = self.machine.general[0] & !mask | value;
                }
            }
            M::Cmpxchg8b | M::Cmpxchg16b if self.fixed & 5 == 0 && self.rng.below(2) == 0 => {
                let half = size / 2;
                if let (Some(low), Some(high)) = (read(here, half), read(here + half, half)) {
                    let keep = if half == 4 { u64::MAX << 32 } else { 0 };
                    self.machine.general[0] = self.machine.general[0] & keep | low;
                    self.machine.general[2] = self.machine.general[2] & keep | high;
                }
            }
            M::Shld | M::Shrd if !self.is_fixed(1) => {
                let count = self.rng.below(8 * size + 1) as u64;
                self.machine.general[1] = self.machine.general[1] & !0xff | count;
            }
            _ => {}
        }
    }

    /// Elements which a string instruction stores; one for every other.
    fn count(&mut self, instruction: &Instruction, size: usize) -> u64 {
        let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        if !is_string(instruction) || !repeats {
            return 1;
        }
        let most = 2 * PAGE / size - 1;
        let count = match self.rng.below(4) {
            0 => self.rng.below(4),
            1 => self.rng.below(64),
            2 => self.rng.below(most.min(700)),
            _ => self.rng.below(most),
        } as u64;
        let narrow = instruction.op_kind(0) == OpKind::MemoryESEDI;
        let garbage = if narrow { self.rng.draw() << 32 } else { 0 };
        self.fix(1, count | garbage);
        count
    }
}
