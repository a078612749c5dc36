// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random storing instructions under a tracker which performs stores, and the
//! same ones natively: registers, flags, vector state and memory must be the
//! same, and the lists complete.
//!
//! A child process executes each instruction first, on plain memory at the
//! same addresses.  What faults there (alignment, unmasked exceptions,
//! instructions which this processor does not have) is left out.
//!
//! Prints one line of JSON.  Exit status: 0 all the same, 1 a difference
//! (the case and the seed are printed), 2 the tracker does not work here.

mod generate;
mod machine;
mod twin;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use clap::Parser;
use generate::{Case, Pool, World};
use hvckpt::{DirtyPages, LockPolicy, RawPages, Region, TrackerKind};
use hvckpt_guest_tests::Rng;
use iced_x86::{Mnemonic, OpKind, Register, RflagsBits};
use machine::{ALIGNMENT, ARITHMETIC, Code, DIRECTION, MXCSR, Machine};
use twin::Twin;

const PAGE: usize = hvckpt::PAGE_SIZE;
const PAGES: usize = 8;
/// Bytes of the area into which instructions store.
const AREA: usize = PAGES * PAGE;

/// Compares random stores with native execution.
#[derive(Parser, Debug)]
struct Args {
    /// Tracker, by the name which `hvckpt doctor` prints.
    #[arg(long)]
    tracker: TrackerKind,
    /// Instructions to execute.
    #[arg(long, default_value_t = 500)]
    cases: usize,
    /// First number of the generator.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Memory below 2 GiB, for addresses of 32 bits.
    #[arg(long)]
    low: bool,
    /// Random encodings to choose from.
    #[arg(long, default_value_t = 150_000)]
    draws: usize,
    /// Only instructions of this name, e.g. mov.
    #[arg(long)]
    only: Option<String>,
    /// Differences to print before it ends.
    #[arg(long, default_value_t = 1)]
    failures: usize,
    /// Also print how often each instruction was performed, and how often its
    /// page was opened instead.
    #[arg(long)]
    table: bool,
}

#[derive(Default)]
struct Totals {
    cases: usize,
    stored: usize,
    performed: usize,
    opened: usize,
    faulted: usize,
    words: usize,
}

/// Memory below 2 GiB, of the program.
fn low_memory() -> RawPages {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh mapping, which stays.
    unsafe {
        let at = libc::mmap(core::ptr::null_mut(), AREA, prot, flags, -1, 0);
        assert_ne!(at, libc::MAP_FAILED, "no memory below 2 GiB");
        RawPages::from_raw(at.cast(), AREA)
    }
}

fn register(args: &Args) -> Region {
    let mut builder = hvckpt::register_cda()
        .tracker(args.tracker)
        .lock(LockPolicy::IfAllowed);
    builder = if args.low {
        builder.adopt(low_memory())
    } else {
        builder.pages(PAGES)
    };
    builder.register().unwrap_or_else(|error| {
        eprintln!("{}", hvckpt::explain(&error));
        std::process::exit(2);
    })
}

/// Stores which the tracker performed, and pages which it opened.
fn counts(region: &Region) -> (u64, u64) {
    let counters = region.counters();
    let emulated = counters.emulated.unwrap_or(0);
    match counters.hypervisor {
        Some(xen) => (emulated, xen.degraded),
        None => (emulated, counters.faults.unwrap_or(0) - emulated),
    }
}

/// Whether documents allow that the page is opened.
fn may_open(kind: TrackerKind, case: &Case) -> bool {
    let unmasked = {
        let control = &case.machine.extended[MXCSR..MXCSR + 2];
        !u16::from_le_bytes([control[0], control[1]]) & 0x1f80 != 0
    };
    case.crosses
        || case.machine.flags & ALIGNMENT != 0
        || match kind {
            TrackerKind::Emul => unmasked || left_out_by_emul(case),
            _ => left_out_by_xen(case),
        }
}

/// See "Emulation" in docs/library.md.
fn left_out_by_emul(case: &Case) -> bool {
    use Mnemonic as M;
    let instruction = &case.instruction;
    let operands = 0..instruction.op_count();
    let kinds = operands.clone().map(|op| instruction.op_kind(op));
    let own = operands
        .filter(|&op| instruction.op_kind(op) == OpKind::Register)
        .any(|op| {
            let register = instruction.op_register(op).full_register();
            matches!(register, Register::RSP | Register::CS | Register::SS)
        });
    let prefixed = generate::is_string(instruction)
        && (instruction.has_segment_prefix()
            || kinds
                .clone()
                .any(|kind| matches!(kind, OpKind::MemoryESEDI | OpKind::MemorySegESI)));
    // With an absolute address of 32 bits.
    let narrow = case.bytes.contains(&0x67)
        && instruction.op_kind(0) == OpKind::Memory
        && instruction.memory_displ_size() == 4
        && instruction.memory_base() == Register::None
        && instruction.memory_index() == Register::None;
    own || prefixed
        || narrow
        || match instruction.mnemonic() {
            M::Pop => false,
            M::Enter | M::Fxsave | M::Fxsave64 | M::Movntss | M::Movntsd | M::Clzero => true,
            M::Movdir64b | M::Aadd | M::Aand | M::Aor | M::Axor => true,
            _ => instruction.is_stack_instruction(),
        }
}

/// Xen's emulator may leave out what it wants; a plain `mov` is always performed,
/// or a mistake in its address would go unnoticed: a store elsewhere is refused.
fn left_out_by_xen(case: &Case) -> bool {
    let instruction = &case.instruction;
    instruction.mnemonic() != Mnemonic::Mov
        || instruction.op_kind(1) == OpKind::Register
            && instruction.op_register(1).is_segment_register()
}

struct Fuzz<'a> {
    region: &'a Region,
    twin: Twin,
    world: World,
    /// What the area held before the last instruction.
    before: Vec<u8>,
    totals: Totals,
    table: BTreeMap<String, [usize; 2]>,
    /// The processor did not know the last instruction.
    unknown: bool,
}

impl Fuzz<'_> {
    fn memory(&self) -> &[u8] {
        // SAFETY: the region is mapped, and this thread alone writes there.
        unsafe { core::slice::from_raw_parts(self.region.as_ptr(), AREA) }
    }

    /// Executes the case natively; what it became, or `None` if it faults.
    fn natively(&mut self, case: &Case) -> Option<Machine> {
        let mut machine = case.machine.clone();
        self.twin.execute(&case.bytes, &mut machine);
        if machine.signal == 0 {
            return Some(machine);
        }
        self.unknown = machine.signal == libc::SIGILL.cast_unsigned().into();
        // A string may have been half done.
        self.twin.memory().copy_from_slice(&self.before);
        None
    }

    /// Executes it under the tracker, in an open transaction.
    fn tracked(&mut self, case: &Case) -> Machine {
        let mut machine = case.machine.clone();
        self.world.code.put(machine.code, &case.bytes);
        // SAFETY: it stores into the area, as the other process has shown.
        unsafe { machine::execute(&mut machine) };
        machine
    }

    /// What is wrong with the outcome.
    fn judge(
        &mut self,
        case: &Case,
        native: &Machine,
        tracked: &Machine,
        list: &DirtyPages<'_>,
        opened: u64,
    ) -> Vec<String> {
        if tracked.signal != 0 {
            return vec![format!("signal {} under the tracker", tracked.signal)];
        }
        let kind = self.region.tracker();
        let mut wrong = native.difference(tracked, compared_flags(kind, case));
        // SAFETY: as in `memory`, which would borrow everything.
        let now = unsafe { core::slice::from_raw_parts(self.region.as_ptr(), AREA) };
        for (at, (native, tracked)) in self.twin.memory().iter().zip(now).enumerate() {
            if native != tracked {
                wrong.push(format!("byte {at:#x}: {native:#x} and {tracked:#x}"));
            }
        }
        if list.lost() {
            wrong.push("the list is lost".to_owned());
        }
        let listed = list.to_vec();
        let written: Option<Vec<_>> = list.written().map(|writes| {
            writes
                .iter()
                .map(|w| w.offset..w.offset + u64::from(w.bytes))
                .collect()
        });
        let mut changed = false;
        for (at, (before, now)) in self.before.iter().zip(now).enumerate() {
            if before == now {
                continue;
            }
            changed = true;
            if !listed.contains(&(at / PAGE)) {
                wrong.push(format!("page {} changed and is not listed", at / PAGE));
            }
            let offset = at as u64;
            if let Some(written) = &written
                && !written.iter().any(|range| range.contains(&offset))
            {
                wrong.push(format!("byte {at:#x} changed and is not logged"));
            }
        }
        let may = |range: &core::ops::Range<u64>| {
            let area = self.world.area;
            case.written
                .iter()
                .any(|w| w.start - area < range.end && range.start < w.end - area)
        };
        let page = PAGE as u64;
        for &page in &listed {
            let start = (page * PAGE) as u64;
            if !may(&(start..start + PAGE as u64)) {
                wrong.push(format!("page {page} is listed and was not written to"));
            }
        }
        for range in written.iter().flatten() {
            let whole = range.end - range.start == page && range.start % page == 0;
            if !(may(range) || whole && opened != 0) {
                wrong.push(format!("{range:x?} is logged and was not written to"));
            }
        }
        if opened != 0 && !may_open(kind, case) {
            wrong.push("the page was opened".to_owned());
        }
        self.totals.words += written.map_or(0, |list| list.len());
        self.totals.stored += usize::from(changed);
        wrong
    }
}

/// Flags with a defined value; the same instruction on the same processor
/// leaves the same in the others.
fn compared_flags(kind: TrackerKind, case: &Case) -> u64 {
    let undefined = if kind == TrackerKind::Emul {
        0
    } else {
        case.instruction.rflags_undefined()
    };
    let bits = [
        (RflagsBits::CF, 0),
        (RflagsBits::PF, 2),
        (RflagsBits::AF, 4),
        (RflagsBits::ZF, 6),
        (RflagsBits::SF, 7),
        (RflagsBits::OF, 11),
    ];
    let ignored = bits
        .iter()
        .filter(|(flag, _)| undefined & flag != 0)
        .map(|(_, bit)| 1 << bit)
        .fold(0, |all, bit: u64| all | bit);
    (ARITHMETIC | DIRECTION | ALIGNMENT) & !ignored
}

fn tell(args: &Args, case: &Case, number: usize, wrong: &[String]) {
    eprintln!(
        "case {number} of --tracker {} --seed {}{}{}: {:?} {:02x?} at {:#x}",
        args.tracker,
        args.seed,
        if args.low { " --low" } else { "" },
        args.only
            .as_ref()
            .map_or_else(String::new, |only| format!(" --only {only}")),
        case.instruction.code(),
        case.bytes,
        case.machine.code,
    );
    eprintln!("  may write {:x?}", case.written);
    eprintln!(
        "  registers {:x?}, flags {:#x}, GS {:#x}",
        case.machine.general, case.machine.flags, case.machine.gs
    );
    for line in wrong.iter().take(20) {
        eprintln!("  {line}");
    }
}

fn main() {
    let args = Args::parse();
    let mut rng = Rng::new(args.seed);
    let codes = [Code::new(false), Code::new(true)];
    let (components, mxcsr_mask) = machine::extended_state();
    let scratch: &'static mut [u64] = vec![0; AREA / 8].leak();
    scratch.iter_mut().for_each(|word| *word = rng.draw());
    machine::catch_signals();
    let mut twin = Twin::new(codes);

    let region = register(&args);
    let area = region.as_ptr() as u64;
    twin.place(area);
    for word in region.atomics_u64() {
        word.store(rng.draw(), Ordering::Relaxed);
    }
    let mut fuzz = Fuzz {
        region: &region,
        world: World {
            area,
            code: codes[usize::from(args.low)],
            scratch: scratch.as_ptr() as u64,
            fs: machine::fs_base(),
            components,
            mxcsr_mask,
        },
        twin,
        before: Vec::new(),
        totals: Totals::default(),
        table: BTreeMap::new(),
        unknown: false,
    };
    fuzz.before = fuzz.memory().to_vec();
    fuzz.twin.memory().copy_from_slice(&fuzz.before);

    let mut pool = Pool::new(&mut rng, args.draws, args.only.as_deref());
    if pool.kinds() == 0 {
        eprintln!("no storing instruction of that name was drawn (--only, --draws)");
        std::process::exit(2);
    }
    let mut transaction = region.begin().unwrap_or_else(|e| panic!("{e}"));
    let mut failures = 0;
    // A case which does not come about costs a try.
    for _ in 0..100 * args.cases {
        if fuzz.totals.cases == args.cases {
            break;
        }
        let Some(case) = pool.case(&mut rng, &fuzz.world, &fuzz.before) else {
            continue;
        };
        let Some(native) = fuzz.natively(&case) else {
            fuzz.totals.faulted += 1;
            if fuzz.unknown {
                pool.remove(&case);
            }
            continue;
        };
        let number = fuzz.totals.cases;
        fuzz.totals.cases += 1;
        let counted = counts(&region);
        let tracked = fuzz.tracked(&case);
        let (performed, opened) = counts(&region);
        let (performed, opened) = (performed - counted.0, opened - counted.1);
        let list = transaction
            .commit_and_continue()
            .unwrap_or_else(|e| panic!("{e}"));
        let wrong = fuzz.judge(&case, &native, &tracked, &list, opened);
        drop(list);
        if !wrong.is_empty() {
            tell(&args, &case, number, &wrong);
            failures += 1;
            if failures == args.failures {
                break;
            }
            // From here on the same again.
            let now = fuzz.memory().to_vec();
            fuzz.twin.memory().copy_from_slice(&now);
        }
        fuzz.before.copy_from_slice(fuzz.twin.memory());
        fuzz.totals.performed += usize::from(performed != 0);
        fuzz.totals.opened += usize::from(opened != 0);
        let name = format!("{:?}", case.instruction.code());
        let row = fuzz.table.entry(name).or_default();
        row[0] += usize::from(performed != 0);
        row[1] += usize::from(opened != 0);
    }
    drop(transaction);

    if args.table {
        for (name, [performed, opened]) in &fuzz.table {
            println!("{name}: performed {performed}, opened {opened}");
        }
    }
    let totals = &fuzz.totals;
    println!(
        "{{\"tracker\":\"{}\",\"seed\":{},\"kinds\":{},\"cases\":{},\"stored\":{},\"performed\":{},\"opened\":{},\"words\":{},\"faulted_natively\":{}}}",
        args.tracker,
        args.seed,
        pool.kinds(),
        totals.cases,
        totals.stored,
        totals.performed,
        totals.opened,
        totals.words,
        totals.faulted,
    );
    std::process::exit(i32::from(failures != 0 || totals.cases < args.cases));
}
