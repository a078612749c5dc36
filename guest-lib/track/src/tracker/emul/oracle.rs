// SPDX-License-Identifier: MIT OR Apache-2.0
//! The decoder of stores against an independent one.

use std::collections::BTreeSet;

use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic,
    OpAccess, OpKind, Register,
};

use super::decode::{LONGEST, RDI, RSI, Store, decode};
use super::table::{Place, Reg};

const IP: u64 = 0x1234_5678_9000;
const GENERAL: [Register; 16] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RBX,
    Register::RSP,
    Register::RBP,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }

    fn one_in(&mut self, n: u64) -> bool {
        (self.next() >> 11).is_multiple_of(n)
    }

    /// Bytes which are likely to be an instruction.
    fn instruction(&mut self) -> [u8; 16] {
        let mut bytes = Vec::new();
        for prefix in [0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x64, 0x65, 0x2e] {
            if self.one_in(8) {
                bytes.push(prefix);
            }
        }
        match self.next() >> 61 {
            0 => {
                bytes.clear();
                bytes.extend([0xc5, self.byte()]);
            }
            1 => {
                bytes.clear();
                bytes.extend([0xc4, self.byte() & 0xe0 | self.byte() & 3, self.byte()]);
            }
            2 => {
                bytes.clear();
                let (a, b) = (self.byte() & 0xf3, self.byte() | 4);
                bytes.extend([0x62, a, b, self.byte() & 0xef]);
            }
            n => {
                if self.one_in(3) {
                    bytes.push(0x40 | self.byte() & 0xf);
                }
                match n {
                    3 | 4 => bytes.push(0x0f),
                    5 => bytes.extend([0x0f, if self.one_in(2) { 0x38 } else { 0x3a }]),
                    _ => {}
                }
            }
        }
        let mut code = [0; 16];
        code.iter_mut().for_each(|byte| *byte = self.byte());
        code[..bytes.len()].copy_from_slice(&bytes);
        code
    }
}

fn iced(bytes: &[u8]) -> Option<Instruction> {
    let options = DecoderOptions::NONE;
    let mut decoder = Decoder::with_ip(64, bytes, IP, options);
    let instruction = decoder.decode();
    (decoder.last_error() == DecoderError::None && !instruction.is_invalid()).then_some(instruction)
}

fn writes(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

/// An accepted instruction is what we think it is, and so is its copy.
fn agree(
    store: &Store,
    bytes: &[u8],
    instruction: &Instruction,
    infos: &mut InstructionInfoFactory,
) {
    let say = format!("{instruction:?} {bytes:02x?}, {store:?}");
    assert_eq!(usize::from(store.length), instruction.len(), "{say}");
    let info = infos.info(instruction);
    let pop = store.shape.place == Place::Pop;
    let written: Vec<_> = info
        .used_memory()
        .iter()
        .filter(|memory| writes(memory.access()))
        .collect();
    assert_eq!(written.len(), 1, "{say}");
    let memory = written[0];
    let size = match store.shape.place {
        // Information about masked moves is about the register.
        Place::Rdi => usize::from(store.shape.size),
        _ => instruction.memory_size().size(),
    };
    assert!(
        size == usize::from(store.shape.size)
            // Elements of unknown number.
            || size <= usize::from(store.shape.size)
                && matches!(instruction.mnemonic(),
                    Mnemonic::Vcompressps | Mnemonic::Vcompresspd | Mnemonic::Vpcompressd
                    | Mnemonic::Vpcompressq | Mnemonic::Vpcompressb | Mnemonic::Vpcompressw),
        "{size}: {say}"
    );
    let register = |number: u8| GENERAL[usize::from(number)];
    let (base, index, displacement, scale) = if instruction.is_ip_rel_memory_operand() {
        assert!(store.address.relative, "{say}");
        let next = IP + instruction.len() as u64;
        let distance = memory.displacement().wrapping_sub(next).cast_signed();
        let distance = if store.address.narrow {
            // The low half, as a signed number.
            distance << 32 >> 32
        } else {
            distance
        };
        (Register::None, Register::None, distance, 1)
    } else {
        assert!(!store.address.relative, "{say}");
        let displacement = memory.displacement().cast_signed();
        (memory.base(), memory.index(), displacement, memory.scale())
    };
    let ours = store.address.base.map_or(Register::None, register);
    assert_eq!(ours, base.full_register(), "base of {say}");
    let (ours, shift) = store.address.index.unwrap_or((0, 0));
    let ours = store
        .address
        .index
        .map_or(Register::None, |_| register(ours));
    assert_eq!(ours, index.full_register(), "index of {say}");
    if index != Register::None {
        assert_eq!(1 << shift, scale, "scale of {say}");
    }
    let expected = if pop && base.full_register() == Register::RSP {
        // Iced adds what is popped; we add it to rsp.
        displacement - i64::from(store.shape.size)
    } else {
        displacement
    };
    let difference = expected.wrapping_sub(store.address.displacement);
    let same = if store.address.narrow {
        difference & 0xffff_ffff == 0
    } else {
        difference == 0
    };
    assert!(same, "displacement {displacement:#x} of {say}");
    let segment = match memory.segment() {
        Register::FS => 0x64,
        Register::GS => 0x65,
        _ => 0,
    };
    assert_eq!(store.address.segment, segment, "segment of {say}");
    if !pop {
        copied(store, instruction, &say);
    }
    // Nothing but the address may use the register which the copy takes away.
    if store.shape.place == Place::ModRm {
        let pointer = register(store.pointer);
        let named = instruction.op_count();
        let named = (0..named).filter(|&op| instruction.op_kind(op) == OpKind::Register);
        for op in named {
            let used = instruction.op_register(op).full_register();
            assert!(used != pointer && (used != Register::RSP), "{say}");
        }
        let used = info.used_registers().iter().filter(|used| {
            used.register().full_register() == pointer
                && (base.full_register() != pointer && index.full_register() != pointer
                    || writes(used.access()))
        });
        assert_eq!(used.count(), 0, "{say}");
    }
}

/// The copy is the same instruction at the address of one register.
fn copied(store: &Store, original: &Instruction, say: &str) {
    let mut bytes = store.copy().to_vec();
    bytes.extend([0xcc; LONGEST]);
    let copy = iced(&bytes).unwrap_or_else(|| panic!("{say}: copy {:02x?}", store.copy()));
    assert_eq!(copy.len(), store.copy().len(), "{say}");
    if store.shape.place == Place::Moffs {
        assert_eq!(copy.mnemonic(), Mnemonic::Mov, "{say}");
    } else {
        assert_eq!(copy.code(), original.code(), "{say}");
    }
    let state = |i: &Instruction| {
        (
            i.has_lock_prefix(),
            i.has_rep_prefix(),
            i.has_repne_prefix(),
            i.op_mask(),
            i.zeroing_masking(),
            i.op_count(),
        )
    };
    assert_eq!(state(&copy), state(original), "{say}");
    for op in 0..original.op_count() {
        match original.op_kind(op) {
            OpKind::Register => {
                assert_eq!(copy.op_register(op), original.op_register(op), "{say}");
            }
            OpKind::Memory => {
                assert_eq!(copy.op_kind(op), OpKind::Memory, "{say}");
                let pointer = GENERAL[usize::from(store.pointer)];
                assert_eq!(copy.memory_base(), pointer, "{say}");
                assert_eq!(copy.memory_index(), Register::None, "{say}");
                assert_eq!(copy.memory_displacement64(), 0, "{say}");
                assert_eq!(copy.segment_prefix(), Register::None, "{say}");
            }
            OpKind::MemoryESRDI | OpKind::MemorySegRDI | OpKind::MemorySegEDI => {
                assert_eq!(store.pointer, RDI, "{say}");
                let wide = match original.op_kind(op) {
                    OpKind::MemorySegEDI => OpKind::MemorySegRDI,
                    kind => kind,
                };
                assert_eq!(copy.op_kind(op), wide, "{say}");
            }
            OpKind::MemorySegRSI => assert_eq!(copy.op_kind(op), original.op_kind(op), "{say}"),
            _ => assert_eq!(copy.immediate(op), original.immediate(op), "{say}"),
        }
    }
}

/// Stores which are left to the page, and why: see the table.
fn left_out(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let mnemonic = format!("{:?}", instruction.mnemonic());
    let stack = instruction.is_stack_instruction()
        || matches!(
            instruction.mnemonic(),
            M::Enter | M::Int | M::Int1 | M::Int3 | M::Into
        );
    let scatter = mnemonic.contains("scatter");
    let save = mnemonic.starts_with("Xsave") || mnemonic.starts_with("Fxsave");
    let system = matches!(
        instruction.mnemonic(),
        M::Sgdt
            | M::Sidt
            | M::Sldt
            | M::Str
            | M::Smsw
            | M::Vmread
            | M::Vmptrst
            | M::Vmsave
            | M::Insb
            | M::Insw
            | M::Insd
            | M::Fnsave
            | M::Fnstenv
            | M::Bndmov
            | M::Bndstx
            | M::Movdir64b
            | M::Movdiri
            | M::Enqcmd
            | M::Enqcmds
            | M::Clzero
            | M::Wrssd
            | M::Wrssq
            | M::Wrussd
            | M::Wrussq
            | M::Movntss
            | M::Movntsd
            | M::Aadd
            | M::Aand
            | M::Aor
            | M::Axor
            | M::Rdmsrlist
            | M::Sttilecfg
            | M::Clrssbsy
            | M::Rstorssp
            | M::Pbndkb
            | M::Montmul
    ) || mnemonic.starts_with("Cmp") && mnemonic.ends_with("xadd")
        || mnemonic.starts_with("Tile")
        || ["Xcrypt", "Ccs_", "Xsha", "Xstore"]
            .iter()
            .any(|vendor| mnemonic.starts_with(vendor));
    // Through rsp itself, or narrow or segmented strings.
    let rsp = (0..instruction.op_count()).any(|op| {
        instruction.op_kind(op) == OpKind::Register
            && instruction.op_register(op).full_register() == Register::RSP
    });
    let string = matches!(
        instruction.mnemonic(),
        M::Movsb | M::Movsw | M::Movsd | M::Movsq | M::Stosb | M::Stosw | M::Stosd | M::Stosq
    );
    let moffs = matches!(
        instruction.code(),
        Code::Mov_moffs8_AL | Code::Mov_moffs16_AX | Code::Mov_moffs32_EAX | Code::Mov_moffs64_RAX
    );
    let selector = (0..instruction.op_count()).any(|op| {
        instruction.op_kind(op) == OpKind::Register
            && matches!(instruction.op_register(op), Register::CS | Register::SS)
    });
    stack || scatter || save || system || rsp || string || moffs || selector
}

#[test]
fn another_decoder_agrees() {
    let cases: usize = std::env::var("HVCKPT_ORACLE_CASES")
        .map_or(400_000, |text| text.parse().expect("a number"));
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    let mut infos = InstructionInfoFactory::new();
    let mut accepted = BTreeSet::new();
    let mut declined = BTreeSet::new();
    for _ in 0..cases {
        let bytes = rng.instruction();
        let Some(instruction) = iced(&bytes[..LONGEST]) else {
            // Whatever we make of it, it does not get as far as a page fault.
            continue;
        };
        let ours = decode(|at| bytes[usize::from(at)]);
        if let Some(store) = ours {
            agree(&store, &bytes, &instruction, &mut infos);
            accepted.insert(format!("{:?}", instruction.mnemonic()));
            continue;
        }
        let info = infos.info(&instruction);
        let stores = info.used_memory().iter().any(|m| writes(m.access()));
        if stores && !left_out(&instruction) {
            declined.insert(format!(
                "{:?} {:02x?}",
                instruction.code(),
                &bytes[..instruction.len()]
            ));
        }
    }
    assert!(
        declined.is_empty(),
        "{} not known: {declined:#?}",
        declined.len()
    );
    assert!(
        accepted.len() > 100,
        "{} kinds of stores: {accepted:?}",
        accepted.len()
    );
}

/// Signal handlers run with these selectors set anew.
#[test]
fn selectors_of_the_handler_are_not_stored() {
    for segment in 0..8_u8 {
        // mov [rax], segment
        let code = [0x8c, segment << 3];
        let store = decode(|at| code[usize::from(at)]);
        assert_eq!(store.is_some(), matches!(segment, 0 | 3..=5), "{segment}");
    }
}

#[test]
fn nothing_behind_the_instruction_is_read() {
    let mut rng = Rng(77);
    let mut seen = 0;
    for _ in 0..50_000 {
        let bytes = rng.instruction();
        let last = std::cell::Cell::new(0);
        let store = decode(|at| {
            last.set(at);
            bytes[usize::from(at)]
        });
        if let Some(store) = store {
            assert_eq!(last.get() + 1, store.length, "{bytes:02x?}");
            seen += 1;
        }
    }
    assert!(seen > 1000);
}

#[test]
fn the_pointer_is_never_a_register_of_the_store() {
    // mov [rax], rsi and mov [rax], rdi
    let pointer = |code: [u8; 3]| decode(|at| code[usize::from(at)]).unwrap().pointer;
    assert_eq!(pointer([0x48, 0x89, 0x30]), RDI);
    assert_eq!(pointer([0x48, 0x89, 0x38]), RSI);
    // mov [rax], rsp
    let code = [0x48, 0x89, 0x20];
    assert!(decode(|at| code[usize::from(at)]).is_none());
    // bts [rax], esi
    let code = [0x0f, 0xab, 0x30];
    let store = decode(|at| code[usize::from(at)]).unwrap();
    assert_eq!((store.shape.reg, store.pointer), (Reg::BitOffset, RDI));
}
