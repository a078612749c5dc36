//! Random storing instructions, executed natively and under `emul`: memory,
//! registers, flags and vector state must be the same, and the log must have
//! what changed.
//!
//! `HVCKPT_FUZZ_CASES` (5,000) and `HVCKPT_FUZZ_SEED` (1) change the run.

#[allow(dead_code)]
mod common;
#[path = "emul/forms.rs"]
mod forms;
#[path = "emul/machine.rs"]
mod machine;

use common::Rng;
use forms::{Choice, Form, Reg};
use hvckpt::{PAGE_SIZE, Region, TrackerKind};
use machine::{Extended, Frame, Stack};

const PAGES: usize = 4;
const BYTES: usize = PAGES * PAGE_SIZE;
/// Cases on one region.
const BATCH: usize = 1000;
const FLAGS: u64 = 0x8d5 | DIRECTION;
const DIRECTION: u64 = 1 << 10;

fn number(rng: &mut Rng) -> u64 {
    (0..4).fold(0, |value, _| value << 16 | rng.below(1 << 16) as u64)
}

fn setting(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number"))
    })
}

/// An instruction and the registers which it gets.
struct Case {
    what: String,
    code: Vec<u8>,
    registers: [u64; 16],
    flags: u64,
    extended: usize,
    /// Lies in two pages: the tracker is to open them.
    crossing: bool,
    /// Has a mask, and may store nothing.
    masked: bool,
    /// Registers after, flags, extended state and memory.
    after: Option<(Frame, Vec<u8>, Vec<u8>)>,
}

/// The machine on which cases run.
struct Bench {
    region: Region,
    /// Executable, within two gigabytes of the region.
    code: usize,
    /// Sources of strings.
    source: Vec<u8>,
    extended: Vec<Extended>,
    stack: Stack,
    fs: u64,
    gs: u64,
}

fn arch_prctl(code: i32, argument: usize) {
    // SAFETY: sets GS, which nothing here uses, or fills eight bytes.
    let result = unsafe { libc::syscall(libc::SYS_arch_prctl, code, argument) };
    assert_eq!(result, 0, "arch_prctl");
}

impl Bench {
    fn new(rng: &mut Rng) -> Self {
        const ARCH_SET_GS: i32 = 0x1001;
        const ARCH_GET_FS: i32 = 0x1003;
        let region = common::region(TrackerKind::Emul, PAGES);
        // SAFETY: a fresh mapping, no address is forced.
        let code = unsafe {
            let prot = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), PAGE_SIZE, prot, flags, -1, 0)
        } as usize;
        let distance = (region.as_ptr() as usize).abs_diff(code);
        assert!(
            distance < 1 << 30,
            "the kernel mapped {distance} bytes apart"
        );
        let mut fs = 0_u64;
        arch_prctl(ARCH_GET_FS, &raw mut fs as usize);
        let gs = region.as_ptr() as u64 - 0x1234;
        arch_prctl(ARCH_SET_GS, gs as usize);
        Self {
            region,
            code,
            source: (0..3 * BYTES).map(|_| rng.below(256) as u8).collect(),
            extended: (0..64).map(|_| Extended::random(|| number(rng))).collect(),
            stack: Stack::new(),
            fs,
            gs,
        }
    }

    fn start(&self) -> usize {
        self.region.as_ptr() as usize
    }

    fn memory(&self) -> Vec<u8> {
        let atomics = self.region.atomics_u64().iter();
        atomics
            .flat_map(|word| {
                word.load(std::sync::atomic::Ordering::Relaxed)
                    .to_le_bytes()
            })
            .collect()
    }

    /// All of it, before the first cycle: nothing is protected.
    fn set_memory(&self, bytes: &[u8]) {
        for (word, bytes) in self.region.atomics_u64().iter().zip(bytes.chunks_exact(8)) {
            let value = u64::from_le_bytes(bytes.try_into().unwrap());
            word.store(value, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn perform(&mut self, case: &Case) -> (Frame, Extended) {
        const RET: u8 = 0xc3;
        let at = self.code as *mut u8;
        let extended = &mut self.extended[case.extended];
        // SAFETY: the page is ours, and the code ends with a return.
        unsafe {
            at.copy_from(case.code.as_ptr(), case.code.len());
            at.add(case.code.len()).write(RET);
            Frame::call(case.registers, case.flags, extended, &self.stack, self.code)
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // SAFETY: nobody uses it any more.
        unsafe { libc::munmap(self.code as *mut libc::c_void, PAGE_SIZE) };
    }
}

/// Names the address `target` in one of the many ways.  `taken` are registers
/// whose value matters.  Returns ModRM without its field, SIB and displacement,
/// and the two extension bits.
fn name_address(
    bench: &Bench,
    rng: &mut Rng,
    choice: &mut Choice,
    registers: &mut [u64; 16],
    taken: &[u8],
    target: u64,
    scale: i64,
) -> (Vec<u8>, bool, bool, bool) {
    let free = |rng: &mut Rng, not: &[u8]| loop {
        let register = rng.below(16) as u8;
        if register != 4 && !taken.contains(&register) && !not.contains(&register) {
            break register;
        }
    };
    let mut target = target;
    match rng.below(6) {
        0 => {
            choice.segment = 0x64;
            target = target.wrapping_sub(bench.fs);
        }
        1 => {
            choice.segment = 0x65;
            target = target.wrapping_sub(bench.gs);
            choice.narrow = rng.below(2) == 0;
        }
        _ => {}
    }
    let low = |value: u64| {
        if choice.narrow {
            value & 0xffff_ffff
        } else {
            value
        }
    };
    // The upper half of registers must not count.
    let high = |rng: &mut Rng| if choice.narrow { number(rng) << 32 } else { 0 };
    let (mode, displacement) = match rng.below(3) {
        0 => (0_u8, 0_i64),
        1 => (1, i64::from(rng.below(256) as u8 as i8)),
        _ => (2, i64::from(number(rng) as i32)),
    };
    let scaled = if mode == 1 {
        displacement * scale
    } else {
        displacement
    };
    let rest = target.wrapping_sub(scaled.cast_unsigned());
    let mut tail = match mode {
        1 => vec![displacement.to_le_bytes()[0]],
        2 => displacement.to_le_bytes()[..4].to_vec(),
        _ => Vec::new(),
    };
    let kind = rng.below(8);
    // By displacement alone, where that reaches: through GS.
    let near = i32::try_from(target.cast_signed()).is_ok();
    if kind == 0 && choice.segment == 0x65 && near {
        let absolute = target.cast_signed().to_le_bytes();
        let code = [&[4, 0x25][..], &absolute[..4]].concat();
        return (code, false, false, false);
    }
    if kind == 1 && choice.segment == 0 {
        return (vec![5, 0, 0, 0, 0], false, false, true);
    }
    if kind < 5 {
        let index = free(rng, &[]);
        let shift = rng.below(4) as u8;
        let sib = |base: u8| shift << 6 | (index & 7) << 3 | base & 7;
        // An index alone has a displacement of four bytes.
        if kind == 2 {
            let value = number(rng) as i32;
            let aligned =
                target.wrapping_sub(i64::from(value).cast_unsigned()) & ((1 << shift) - 1);
            let value = value.wrapping_add(aligned as i32);
            let rest = low(target.wrapping_sub(i64::from(value).cast_unsigned()));
            // Multiplying loses the upper bits, so negative ones do as well.
            let junk = if shift == 0 {
                0
            } else {
                number(rng) << (64 - shift)
            };
            registers[usize::from(index)] = rest >> shift | if choice.narrow { 0 } else { junk };
            tail = value.to_le_bytes().to_vec();
            return ([vec![4, sib(5)], tail].concat(), index > 7, false, false);
        }
        let product = registers[usize::from(index)] << shift;
        let base = if rng.below(8) == 0 {
            4
        } else {
            free(rng, &[index])
        };
        if base == 4 {
            if shift == 0 && !choice.narrow {
                registers[usize::from(index)] = rest.wrapping_sub(bench.stack.pointer());
                let mode = if mode == 0 { 0 } else { mode << 6 };
                let code = [vec![mode | 4, sib(4)], tail].concat();
                return (code, index > 7, false, false);
            }
        } else if !(base & 7 == 5 && mode == 0) {
            registers[usize::from(base)] = low(rest.wrapping_sub(product)) | high(rng);
            let code = [vec![mode << 6 | 4, sib(base)], tail].concat();
            return (code, index > 7, base > 7, false);
        }
    }
    let base = loop {
        let base = free(rng, &[]);
        // These two mean something else.
        if base & 7 != 4 && !(base & 7 == 5 && mode == 0) {
            break base;
        }
    };
    registers[usize::from(base)] = low(rest) | high(rng);
    let code = [vec![mode << 6 | base & 7], tail].concat();
    (code, false, base > 7, false)
}

/// A store with ModRM.
fn modrm_case(bench: &Bench, rng: &mut Rng, form: &Form, memory: &[u8]) -> Case {
    let mut choice = form.choose(rng);
    let bytes = form.bytes(&choice);
    let mut registers = [(); 16].map(|()| number(rng));
    let crossing = !form.aligned && bytes > 1 && rng.below(40) == 0;
    let mut offset = if crossing {
        PAGE_SIZE * (1 + rng.below(PAGES - 1)) - 1 - rng.below(bytes - 1)
    } else if rng.below(4) == 0 {
        PAGE_SIZE * (1 + rng.below(PAGES)) - bytes
    } else {
        let within = rng.below(PAGE_SIZE - bytes + 1);
        rng.below(PAGES) * PAGE_SIZE + within
    };
    if form.aligned {
        offset -= offset % bytes;
    }
    let mut target = (bench.start() + offset) as u64;
    let mut taken = vec![];
    if form.reg == Reg::General {
        taken.push(choice.reg);
        if bytes == 1 && !choice.rex {
            taken.push(choice.reg & 3);
        }
    }
    if form.bits {
        let bits = 8 * bytes as i64;
        let count = (number(rng) as i16 as i64).clamp(-9000, 9000);
        registers[usize::from(choice.reg)] = count.cast_unsigned();
        let counted = if bytes == 2 {
            count as i16 as i64
        } else {
            count
        };
        target = target.wrapping_sub((counted.div_euclid(bits) * bytes as i64).cast_unsigned());
    }
    // An exchange succeeds every other time.
    let opcode = form.opcode[..].to_vec();
    let narrow_exchange = matches!(opcode[..], [0x0f, 0xb0 | 0xb1]);
    let wide_exchange = opcode == [0x0f, 0xc7];
    if narrow_exchange || wide_exchange {
        taken.extend([0, 1, 2, 3]);
        let read = |at: usize| {
            let mut word = [0; 8];
            let end = (at + 8).min(memory.len());
            word[..end - at].copy_from_slice(&memory[at..end]);
            u64::from_le_bytes(word)
        };
        if rng.below(2) == 0 {
            registers[0] = read(offset);
            if wide_exchange {
                let half = bytes / 2;
                registers[2] = read(offset + half);
            }
        }
    }
    let scale = form.scale(&choice);
    let (mut modrm, x, b, relative) = name_address(
        bench,
        rng,
        &mut choice,
        &mut registers,
        &taken,
        target,
        scale,
    );
    if relative {
        // The length does not depend on the displacement.
        let length = form.encode(&choice, &modrm, x, b, &mut rng.clone()).len();
        let distance = target
            .wrapping_sub((bench.code + length) as u64)
            .cast_signed();
        modrm[1..5].copy_from_slice(&distance.to_le_bytes()[..4]);
    }
    let code = form.encode(&choice, &modrm, x, b, rng);
    Case {
        what: format!("{form:?} {choice:?} at {offset:#x}"),
        code,
        registers,
        flags: 0x202 | number(rng) & 0x8d5,
        extended: rng.below(bench.extended.len()),
        crossing,
        masked: choice.mask != 0 || form.encoding.has_vector_mask(form.opcode[0]),
        after: None,
    }
}

/// stos, movs, maskmov, an absolute address, pop.
fn other_case(bench: &Bench, rng: &mut Rng) -> Case {
    let mut registers = [(); 16].map(|()| number(rng));
    let mut flags = 0x202 | number(rng) & 0x8d5;
    let mut code = Vec::new();
    let size = [1, 2, 4, 8][rng.below(4)];
    if size == 2 {
        code.push(0x66);
    }
    let wide = |code: &mut Vec<u8>| {
        if size == 8 {
            code.push(0x48);
        }
    };
    let mut offset = rng.below(BYTES - 64);
    let kind = rng.below(5);
    let mut bytes = size;
    match kind {
        0 | 1 => {
            let repeat = rng.below(3) != 0;
            let down = rng.below(2) == 0;
            let room = if down { offset } else { BYTES - offset } / size;
            let most = [4, 5000][rng.below(2)];
            let count = if repeat && room > 0 {
                rng.below(room.min(most).max(1)) + 1
            } else {
                1
            };
            let near = rng.below(3) == 0 && offset > 100 && BYTES - offset > 100;
            // The source stays inside, too.
            let room = if near { room - 80 / size } else { room };
            let count = count.min(room.max(1));
            flags |= if down { DIRECTION } else { 0 };
            registers[1] = count as u64;
            registers[7] = (bench.start() + offset) as u64;
            // From elsewhere, or so near that elements run over each other.
            registers[6] = if near {
                registers[7].wrapping_add_signed(rng.below(130) as i64 - 65)
            } else {
                bench.source.as_ptr() as u64 + (BYTES + rng.below(BYTES)) as u64
            };
            if repeat {
                code.insert(0, [0xf3, 0xf2][rng.below(2)]);
            }
            wide(&mut code);
            let opcode = if kind == 0 { 0xaa } else { 0xa4 };
            code.push(opcode + u8::from(size > 1));
            // Pages are opened only for an element which lies in two.
            let first = offset % size;
            let page = |at: usize| at / PAGE_SIZE;
            let whole = first == 0 || {
                let end = if down {
                    offset + size
                } else {
                    offset + count * size
                };
                let start = if down {
                    offset + size - count * size
                } else {
                    offset
                };
                page(start) == page(end - 1)
            };
            bytes = if whole { 1 } else { usize::MAX };
        }
        2 => {
            code.clear();
            let reg = rng.below(64) as u8;
            code.extend([0x66, 0x0f, 0xf7, 0xc0 | reg]);
            registers[7] = (bench.start() + offset) as u64;
            bytes = 16;
        }
        3 => {
            wide(&mut code);
            code.push(0xa2 + u8::from(size > 1));
            code.extend(((bench.start() + offset) as u64).to_le_bytes());
        }
        _ => {
            // push imm32, then pop to memory, which is of 8 bytes.
            let value = number(rng).to_le_bytes();
            code = [&[0x68][..], &value[..4], &[0x8f, 0x03]].concat();
            offset &= !7;
            registers[3] = (bench.start() + offset) as u64;
            bytes = 8;
        }
    }
    let crossing = bytes == usize::MAX || offset % PAGE_SIZE + bytes > PAGE_SIZE;
    Case {
        what: format!("{kind} of {size} at {offset:#x}"),
        code,
        registers,
        flags,
        extended: rng.below(bench.extended.len()),
        crossing,
        masked: kind == 2,
        after: None,
    }
}

/// Executes a case under the tracker, and compares.
fn check(bench: &mut Bench, case: &Case, before: &[u8]) -> usize {
    let say = |bench: &Bench| {
        let registers: Vec<String> = case.registers.iter().map(|r| format!("{r:x}")).collect();
        let start = bench.start();
        format!(
            "{:02x?} {}, region at {start:#x}, {registers:?}",
            case.code, case.what
        )
    };
    let region = std::ptr::from_ref(&bench.region);
    // SAFETY: the bench is not moved, and changes its code page only.
    let region = unsafe { &*region };
    let traps = region.counters().emulated.unwrap();
    let transaction = region.begin().unwrap();
    let (frame, mut extended) = bench.perform(case);
    let dirty = transaction.commit().unwrap();
    let (native, state, memory) = case.after.as_ref().unwrap();
    assert_eq!(
        frame.registers[..4],
        native.registers[..4],
        "{}",
        say(bench)
    );
    assert_eq!(
        frame.registers[5..],
        native.registers[5..],
        "{}",
        say(bench)
    );
    assert_eq!(
        frame.flags & FLAGS,
        native.flags & FLAGS,
        "flags: {}",
        say(bench)
    );
    assert!(
        extended.compared() == *state,
        "extended state: {}",
        say(bench)
    );
    let now = bench.memory();
    if now != *memory {
        let at = now.iter().zip(memory).position(|(a, b)| a != b).unwrap();
        panic!("memory at {at:#x}: {}", say(bench));
    }
    let written = dirty.written().expect("the log has room");
    let listed: Vec<usize> = dirty.iter().collect();
    for (at, _) in (before.iter().zip(&now))
        .enumerate()
        .filter(|(_, (a, b))| a != b)
    {
        assert!(
            listed.contains(&(at / PAGE_SIZE)),
            "page of {at:#x}: {}",
            say(bench)
        );
        let covers =
            |w: &&hvckpt::Written| (w.offset..w.offset + u64::from(w.bytes)).contains(&(at as u64));
        assert!(
            written.iter().any(|w| covers(&w)),
            "log of {at:#x}: {}",
            say(bench)
        );
    }
    let emulated = region.counters().emulated.unwrap() - traps;
    if !case.crossing {
        assert!(
            emulated > 0 || case.masked && now == before,
            "not emulated: {}",
            say(bench)
        );
        assert!(
            written
                .iter()
                .all(|w| w.bytes < 4096 || case.code.len() < 4),
            "opened a page: {}",
            say(bench)
        );
    }
    usize::try_from(emulated).unwrap()
}

#[test]
fn emulated_stores_are_native_stores() {
    let cases = setting("HVCKPT_FUZZ_CASES", 5000);
    let mut rng = Rng::new(setting("HVCKPT_FUZZ_SEED", 1) as u64);
    let forms = forms::all();
    let mut emulated = 0;
    let mut crossing = 0;
    let mut done = 0;
    while done < cases {
        let mut bench = Bench::new(&mut rng);
        let initial: Vec<u8> = (0..BYTES).map(|_| rng.below(256) as u8).collect();
        bench.set_memory(&initial);
        let mut memory = initial.clone();
        let batch: Vec<Case> = (0..BATCH.min(cases - done))
            .map(|index| {
                let mut case = if rng.below(6) == 0 {
                    other_case(&bench, &mut rng)
                } else {
                    // Each kind in turn.
                    let form = &forms[(done + index) % forms.len()];
                    modrm_case(&bench, &mut rng, form, &memory)
                };
                let (frame, mut extended) = bench.perform(&case);
                memory = bench.memory();
                case.after = Some((frame, extended.compared(), memory.clone()));
                case
            })
            .collect();
        bench.set_memory(&initial);
        let mut before = &initial;
        for case in &batch {
            emulated += check(&mut bench, case, before);
            crossing += usize::from(case.crossing);
            before = &case.after.as_ref().unwrap().2;
        }
        done += batch.len();
    }
    println!(
        "{done} instructions of {} kinds, {crossing} across pages, {emulated} stores emulated",
        forms.len()
    );
    assert!(emulated > done * 9 / 10);
}
