// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random operations at the gate, from user mode, against everything that a
//! process can do to its memory meanwhile.
//!
//! Each round is a process with a session of its own, threads that call, and a
//! thread that unmaps, moves, aliases and protects the memory they call with.
//! They begin before there is a session, and use its cookie as soon as they read
//! it.  A round ends by detach, exit, exec or SIGKILL.  What must hold: every
//! result is a documented one, a fork child and an exec'd program have no
//! session, memory which no call named stays as it was, no call hangs.
//!
//! Prints one line of JSON; exit status 1 if a rule was broken.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // random bits are cut to size

mod arena;
mod calls;
use std::os::unix::process::CommandExt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arena::Arena;
use calls::Caller;
use clap::Parser;
use hvckpt::abi;
use hvckpt_guest_tests::{Area, PAGE, Rng, attach_struct, fresh_token, no, op, op1, spawn};

/// Random operations at the gate.
#[derive(Parser, Debug)]
struct Args {
    /// Calls to make; with --seconds, at least these.
    #[arg(long, default_value_t = 100_000)]
    calls: u64,
    /// Go on for so long.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// First number of the generators.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads that call, in each process.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Processes at a time.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Calls in the life of a process.
    #[arg(long, default_value_t = 20_000)]
    round: u64,
    /// Fail if a call took longer, in milliseconds; 0: do not judge.  Means
    /// something only where time is counted in instructions, and for one
    /// caller; needs root.
    #[arg(long, default_value_t = 0)]
    limit_ms: u64,
    /// What an exec'd program does; not for use by hand.
    #[arg(long, hide = true)]
    after_exec: bool,
}

/// Operations by number, and one slot for those which do not exist.
pub const OPS: usize = 11;

/// What all processes count, in one shared page.
#[derive(Debug)]
pub struct Totals {
    /// Calls made.
    pub calls: AtomicU64,
    /// Broken rules; each was printed.
    pub broken: AtomicU64,
    /// Calls that succeeded, by operation.
    pub good: [AtomicU64; OPS],
    /// Calls by errno.
    pub errors: [AtomicU64; 136],
    /// The longest call, in cycles, and its operation in the low 8 bits.
    pub longest: AtomicU64,
}

impl Totals {
    fn shared() -> &'static Self {
        let size = size_of::<Self>().next_multiple_of(hvckpt_guest_tests::PAGE);
        let area = hvckpt_guest_tests::Area::map(0, size, libc::MAP_SHARED, -1);
        // SAFETY: zeroed, large enough, aligned to a page, never unmapped;
        // every bit pattern is valid.
        unsafe { &*(area.start as *const Self) }
    }

    /// A rule was broken.
    pub fn broke(&self, what: &str) {
        self.broken.fetch_add(1, Ordering::Relaxed);
        eprintln!("FAIL {what}");
    }
}

fn has_no_session() -> bool {
    (abi::CDA_OP_DETACH..=abi::CDA_OP_QUERY)
        .all(|number| op(number, [1, u64::MAX, 0, 0, 0]) == no(libc::ENOENT))
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Ending {
    Detach,
    Exit,
    Exec,
    Killed,
}

/// A structure for attach, across a border to a page that cannot be written.
/// The callers look at its cookie meanwhile.
struct Opening {
    pages: Area,
    tokens: [[u8; 16]; 2],
}

impl Opening {
    /// Distance of the cookie, which ends at the border, from the start.
    const COOKIE: usize = PAGE - 8;

    fn new() -> Self {
        let pages = Area::map(0, 2 * PAGE, 0, -1);
        let tokens = [fresh_token(), fresh_token()];
        // SAFETY: inside the area, of which nobody else knows yet.
        unsafe { std::ptr::write(Self::at(&pages), attach_struct(tokens[0])) };
        pages.part(1, 1).protect(libc::PROT_READ);
        Self { pages, tokens }
    }

    fn at(pages: &Area) -> *mut abi::cda_attach {
        (pages.start + Self::COOKIE - 24) as *mut abi::cda_attach
    }

    fn cookie(&self) -> &AtomicU64 {
        self.pages.word(Self::COOKIE / 8)
    }

    /// Fails, and tells nothing; then works.
    fn attach(&self, totals: &Totals) {
        let at = Self::at(&self.pages);
        let answer = op1(abi::CDA_OP_ATTACH, at as u64);
        let told = self.cookie().load(Ordering::Relaxed);
        if answer != no(libc::EFAULT) || told != 0 {
            totals.broke(&format!("attach answered {answer}, and told {told:#x}"));
        }
        self.pages.protect(libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: the token's place, at which nobody else looks.
        unsafe { (&raw mut (*at).token).write(self.tokens[1]) };
        let answer = op1(abi::CDA_OP_ATTACH, at as u64);
        if answer != 0 {
            totals.broke(&format!("attach answered {answer}"));
        }
    }
}

/// Life of one process: `calls` calls, then its end.
fn round(args: &Args, totals: &'static Totals, seed: u64, ending: Ending, end: Instant) -> i32 {
    // A call that never returns, or a restart without end, ends the test.
    // SAFETY: no handler, the signal kills.
    unsafe { libc::alarm(120) };
    hvckpt_guest_tests::catch_faults();
    let opening = Opening::new();
    let arena = Arena::new();
    let canary = hvckpt_guest_tests::Area::new(16 * hvckpt_guest_tests::PAGE);
    let (stop, left) = (AtomicBool::new(false), AtomicU64::new(args.round));
    // A fork makes all pages read-only for a moment: attach would rightly fail.
    let attached = AtomicBool::new(false);
    // A thread that starts maps memory, perhaps where the arena has a hole for
    // a moment.
    let started = Barrier::new(args.threads + 2);
    std::thread::scope(|scope| {
        let (arena, stop, left, opening) = (&arena, &stop, &left, &opening);
        let (started, attached) = (&started, &attached);
        let callers: Vec<_> = (0..args.threads)
            .map(|index| {
                let mut caller = Caller::new(
                    arena,
                    opening.cookie(),
                    totals,
                    seed ^ (index as u64 + 1) << 40,
                );
                scope.spawn(move || {
                    started.wait();
                    if args.limit_ms != 0 {
                        // Time that the guest gives to others is not Xen's.
                        hvckpt_guest_tests::before_all_others();
                    }
                    while !stop.load(Ordering::Relaxed)
                        && left.fetch_sub(1, Ordering::Relaxed).cast_signed() > 0
                        && (Instant::now() < end
                            || totals.calls.load(Ordering::Relaxed) < args.calls)
                    {
                        caller.step();
                        if args.limit_ms != 0 {
                            // The others' turn.
                            std::thread::sleep(Duration::from_micros(50));
                        }
                    }
                    stop.store(true, Ordering::Relaxed);
                })
            })
            .collect();
        scope.spawn(move || {
            started.wait();
            let mut rng = Rng::new(seed ^ 0x5eed << 32);
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..8 {
                    arena.disturb(&mut rng);
                }
                if rng.below(16) == 0 && attached.load(Ordering::Relaxed) {
                    let child = spawn(|| i32::from(!has_no_session()));
                    if hvckpt_guest_tests::wait(child) != 0 {
                        totals.broke("a fork child has a session");
                    }
                }
                // Callers need the address space's lock as well.
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        started.wait();
        opening.attach(totals);
        attached.store(true, Ordering::Relaxed);
        for caller in callers {
            let _ = caller.join();
        }
    });
    for page in 0..canary.pages() {
        if canary.get(page * hvckpt_guest_tests::PAGE) != 1 + page as u8 {
            totals.broke("memory which no call named has changed");
        }
    }
    match ending {
        Ending::Detach => {
            let cookie = opening.cookie().load(Ordering::Relaxed);
            let answer = op(abi::CDA_OP_DETACH, [cookie, 0, 0, 0, 0]);
            // A random detach may have hit before.
            if answer != 0 && answer != no(libc::ENOENT) {
                totals.broke(&format!("detach answered {answer}"));
            }
            let good = u64::from(answer == 0);
            totals.good[abi::CDA_OP_DETACH as usize].fetch_add(good, Ordering::Relaxed);
            0
        }
        Ending::Exec => {
            let error = std::process::Command::new("/proc/self/exe")
                .arg("--after-exec")
                .exec();
            eprintln!("exec: {error}");
            1
        }
        Ending::Exit | Ending::Killed => 0,
    }
}

/// Rounds, one after the other, until all calls are made.
fn work(args: &Args, totals: &'static Totals, worker: u64) -> i32 {
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let mut rng = Rng::new(args.seed.wrapping_add(worker << 16));
    let mut first = true;
    let more = || totals.calls.load(Ordering::Relaxed) < args.calls || Instant::now() < end;
    while totals.broken.load(Ordering::Relaxed) == 0 && more() {
        let ending = match rng.below(4) {
            _ if first => Ending::Detach,
            0 => Ending::Detach,
            1 => Ending::Exit,
            2 => Ending::Exec,
            _ => Ending::Killed,
        };
        first = false;
        let seed = rng.draw();
        let child = spawn(|| round(args, totals, seed, ending, end));
        if ending == Ending::Killed {
            // Anywhere in its life.
            std::thread::sleep(Duration::from_millis(200 + rng.below(1500) as u64));
            // SAFETY: our child, which nobody has waited for.
            unsafe { libc::kill(child, libc::SIGKILL) };
        }
        let status = hvckpt_guest_tests::wait(child);
        let killed = ending == Ending::Killed && status == 200 + libc::SIGKILL;
        if status == 2 {
            return 2;
        }
        if status != 0 && !killed {
            totals.broke(&format!("seed {seed}: {ending:?} ended with {status}"));
        }
    }
    0
}

/// Cycles of the time stamp counter in a second.
fn frequency() -> u64 {
    let (start, first) = (Instant::now(), calls::cycles());
    std::thread::sleep(Duration::from_millis(50));
    let (cycles, nanos) = (calls::cycles() - first, start.elapsed().as_nanos());
    u64::try_from(u128::from(cycles) * 1_000_000_000 / nanos.max(1)).unwrap_or(u64::MAX)
}

fn main() {
    let args = Args::parse();
    if args.after_exec {
        std::process::exit(i32::from(!has_no_session()));
    }
    hvckpt_guest_tests::need_gate();
    let totals = Totals::shared();
    let workers: Vec<i32> = (0..args.workers as u64)
        .map(|worker| spawn(|| work(&args, totals, worker)))
        .collect();
    let mut status = 0;
    for worker in workers {
        status = status.max(hvckpt_guest_tests::wait(worker));
    }
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    for number in abi::CDA_OP_VERSION..=abi::CDA_OP_QUERY {
        // What never succeeds is not tested behind its first check.
        if number != abi::CDA_OP_ATTACH && status == 0 && read(&totals.good[number as usize]) == 0 {
            totals.broke(&format!("operation {number} never succeeded"));
        }
    }
    let longest = read(&totals.longest);
    let longest_ns = u128::from(longest >> 8) * 1_000_000_000 / u128::from(frequency().max(1));
    if args.limit_ms != 0 && longest_ns > u128::from(args.limit_ms) * 1_000_000 {
        totals.broke(&format!("a call took {longest_ns} ns"));
    }
    let broken = read(&totals.broken);
    let errors: serde_json::Map<_, _> = (0..totals.errors.len())
        .filter(|&number| read(&totals.errors[number]) != 0)
        .map(|number| (number.to_string(), read(&totals.errors[number]).into()))
        .collect();
    let line = serde_json::json!({
        "program": "fuzz_gate", "seed": args.seed, "calls": read(&totals.calls),
        "good": totals.good.iter().map(read).collect::<Vec<_>>(), "errno": errors,
        "longest_ns": longest_ns as u64, "longest_op": longest & 0xff,
        "broken": broken, "ok": status == 0 && broken == 0,
    });
    println!("{line}");
    std::process::exit(if broken != 0 { 1 } else { status });
}
