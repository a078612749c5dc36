// SPDX-License-Identifier: MIT OR Apache-2.0
//! Is the list complete?  Threads, or the kernel for them, write at random
//! into a critical data area; a comparison with a copy tells which pages
//! changed; every one must be reported.
//!
//! Prints one line of JSON.  Exit status: 0 complete, 1 a page was missed,
//! 2 the tracker does not work here, 77 the tracker is documented to miss
//! such writes (see `--force`).

mod writers;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use clap::Parser;
use hvckpt::{Coverage, DirtyPages, LockPolicy, PAGE_SIZE, Region, TrackerKind};
use hvckpt_guest_tests::Rng;
use writers::{Hand, Writer};

/// Checks that every changed page is reported.
fn threads(text: &str) -> Result<usize, String> {
    let number = hvckpt_guest_tests::some(text).ok();
    number
        .filter(|number| *number <= 1024)
        .ok_or_else(|| "expected 1 to 1024".to_owned())
}

#[derive(Parser, Debug)]
struct Args {
    /// Tracker, by the name which `hvckpt doctor` prints.
    #[arg(long)]
    tracker: TrackerKind,
    /// Pages in the area.
    #[arg(long, default_value_t = 1024, value_parser = hvckpt_guest_tests::some)]
    pages: usize,
    /// Threads which write.
    #[arg(long, default_value_t = 1, value_parser = threads)]
    threads: usize,
    /// Transactions.
    #[arg(long, default_value_t = 100, value_parser = hvckpt_guest_tests::some)]
    transactions: usize,
    /// Writes of each thread in each transaction.
    #[arg(long, default_value_t = 64, value_parser = hvckpt_guest_tests::some)]
    writes: usize,
    /// First number of the generators.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Who writes: mem, read, recv, readv, vm_writev, ptrace.
    #[arg(long, default_value = "mem")]
    writer: Writer,
    /// Threads do not stop for the commits.
    #[arg(long)]
    racing: bool,
    /// Make pages dirty before the kernel writes there.
    #[arg(long)]
    prepare: bool,
    /// Also where the tracker is documented to miss writes.
    #[arg(long)]
    force: bool,
    /// Fail unless the pages can be locked.
    #[arg(long)]
    lock: bool,
    /// Ignore one reported page per transaction: the check must then fail.
    #[arg(long)]
    sabotage: bool,
}

#[derive(Debug, Default)]
struct Totals {
    changed: usize,
    reported: usize,
    missed: usize,
    over: usize,
    lost: usize,
}

/// Knows what the area looked like and what was reported.
struct Referee<'a> {
    region: &'a Region,
    copy: Vec<u64>,
    /// Changed, and not in the list of the cycle: must be in the next.
    owed: Vec<bool>,
    racing: bool,
    sabotage: bool,
    totals: Totals,
}

const WORDS: usize = PAGE_SIZE / 8;

impl<'a> Referee<'a> {
    fn new(region: &'a Region, args: &Args) -> Self {
        Self {
            region,
            copy: region
                .atomics_u64()
                .iter()
                .map(|w| w.load(Ordering::Relaxed))
                .collect(),
            owed: vec![false; region.pages()],
            racing: args.racing,
            sabotage: args.sabotage,
            totals: Totals::default(),
        }
    }

    fn look(&mut self) {
        for (word, copy) in self.region.atomics_u64().iter().zip(&mut self.copy) {
            *copy = word.load(Ordering::Relaxed);
        }
    }

    fn judge(&mut self, list: &DirtyPages<'_>) {
        let totals = &mut self.totals;
        let mut reported = vec![false; self.region.pages()];
        for page in list.iter().skip(usize::from(self.sabotage)) {
            assert!(!reported[page], "page {page} is listed twice");
            reported[page] = true;
        }
        totals.lost += usize::from(list.lost());
        totals.reported += list.len();
        let now = self.region.atomics_u64().chunks_exact(WORDS);
        for (page, (now, copy)) in now.zip(self.copy.chunks_exact_mut(WORDS)).enumerate() {
            let mut changed = false;
            for (now, copy) in now.iter().zip(copy) {
                let now = now.load(Ordering::Relaxed);
                changed |= now != *copy;
                *copy = now;
            }
            totals.changed += usize::from(changed);
            totals.over += usize::from(reported[page] && !changed && !self.owed[page]);
            totals.missed += usize::from(self.owed[page] && !reported[page]);
            self.owed[page] = changed && !reported[page];
            if self.owed[page] && !self.racing {
                self.owed[page] = false;
                totals.missed += 1;
            }
        }
    }
}

struct Shared<'a> {
    region: &'a Region,
    args: &'a Args,
    hand: Hand,
    go: Barrier,
    done: Barrier,
    stop: AtomicBool,
    refused: AtomicU64,
}

/// One thread's share of a transaction.
fn scribble(shared: &Shared<'_>, rng: &mut Rng) {
    let words = shared.region.atomics_u64();
    for _ in 0..shared.args.writes {
        let (at, second, value) = (rng.below(words.len()), rng.below(words.len()), rng.draw());
        let address = |word: usize| shared.region.as_ptr() as usize + word * 8;
        if shared.args.prepare {
            for word in [at, second] {
                shared.region.prepare_write(word * 8..word * 8 + 8);
            }
        }
        // SAFETY: both words are inside the region, which everybody accesses
        // atomically.
        let result = unsafe {
            shared.hand.write(address(at), address(second), value, || {
                words[at].store(value, Ordering::Relaxed);
                if value & 3 == 0 {
                    // A byte, the last of a page at times.
                    shared.region.atomics_u8()[second * 8 + 7].fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        match result {
            Ok(()) => {}
            Err(e) if matches!(e.raw_os_error(), Some(libc::EFAULT | libc::EIO)) => {
                shared.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(e) => {
                eprintln!("{} failed: {e}", shared.args.writer.name());
                std::process::exit(2);
            }
        }
    }
}

fn work(shared: &Shared<'_>, index: usize) {
    let mut rng = Rng::new(shared.args.seed.wrapping_add(1 + index as u64));
    loop {
        shared.go.wait();
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        scribble(shared, &mut rng);
        shared.done.wait();
    }
}

fn work_racing(shared: &Shared<'_>, index: usize) {
    let mut rng = Rng::new(shared.args.seed.wrapping_add(1 + index as u64));
    while !shared.stop.load(Ordering::Relaxed) {
        scribble(shared, &mut rng);
    }
}

fn run(shared: &Shared<'_>, referee: &mut Referee<'_>) -> Result<(), hvckpt::CycleError> {
    for _ in 0..shared.args.transactions {
        let transaction = shared.region.begin()?;
        shared.go.wait();
        shared.done.wait();
        referee.judge(&transaction.commit()?);
    }
    Ok(())
}

fn run_racing(shared: &Shared<'_>, referee: &mut Referee<'_>) -> Result<(), hvckpt::CycleError> {
    let mut transaction = shared.region.begin()?;
    // What was written before is in the copy.
    referee.look();
    for _ in 0..shared.args.transactions {
        std::thread::yield_now();
        referee.judge(&transaction.commit_and_continue()?);
    }
    shared.stop.store(true, Ordering::Relaxed);
    // Two more: the last lists of what was owed.
    referee.judge(&transaction.commit_and_continue()?);
    referee.judge(&transaction.commit()?);
    Ok(())
}

fn main() {
    hvckpt_guest_tests::end_with_the_reader();
    let args = Args::parse();
    let limits = args.tracker.limits();
    let coverage = match args.writer {
        Writer::Mem => Coverage::Reported,
        Writer::Ptrace => limits.forced_writes,
        Writer::VmWritev => limits.remote_writes,
        _ => limits.kernel_writes,
    };
    if coverage == Coverage::Missed && !args.force {
        let line = serde_json::json!({
            "program": "exact", "tracker": args.tracker.name(), "writer": args.writer.name(),
            "skipped": "documented limit: this tracker misses such writes",
        });
        println!("{line}");
        std::process::exit(77);
    }
    let remote = matches!(args.writer, Writer::VmWritev | Writer::Ptrace);
    if args.writer != Writer::Mem && args.threads != 1 {
        eprintln!("one thread, unless it writes by itself");
        std::process::exit(2);
    }
    let hand = Hand::new(args.writer).unwrap_or_else(|error| {
        eprintln!("cannot set up {}: {error}", args.writer.name());
        std::process::exit(2);
    });
    let lock = if args.lock {
        LockPolicy::Required
    } else {
        LockPolicy::IfAllowed
    };
    let region = hvckpt_guest_tests::region(args.tracker, args.pages, lock);
    let shared = Shared {
        region: &region,
        args: &args,
        hand,
        go: Barrier::new(args.threads + 1),
        done: Barrier::new(args.threads + 1),
        stop: AtomicBool::new(false),
        refused: AtomicU64::new(0),
    };
    let mut referee = Referee::new(&region, &args);
    let result = std::thread::scope(|scope| {
        for index in 0..args.threads {
            let shared = &shared;
            scope.spawn(move || {
                if shared.args.racing {
                    work_racing(shared, index)
                } else {
                    work(shared, index)
                }
            });
        }
        let result = if args.racing {
            run_racing(&shared, &mut referee)
        } else {
            run(&shared, &mut referee)
        };
        shared.stop.store(true, Ordering::Relaxed);
        if !args.racing {
            shared.go.wait();
        }
        result
    });
    let totals = &referee.totals;
    // Something must have changed, or the check proves nothing.
    let idle = totals.changed == 0 && coverage == Coverage::Reported;
    let good = result.is_ok() && totals.missed == 0 && !idle;
    let line = serde_json::json!({
        "program": "exact",
        "tracker": region.tracker().name(),
        "writer": args.writer.name(),
        "remote": remote,
        "pages": args.pages,
        "threads": args.threads,
        "transactions": args.transactions,
        "writes": args.writes,
        "seed": args.seed,
        "racing": args.racing,
        "locked": region.locked(),
        "changed": totals.changed,
        "reported": totals.reported,
        "over": totals.over,
        "missed": totals.missed,
        "lost": totals.lost,
        "refused": shared.refused.load(Ordering::Relaxed),
        "error": result.as_ref().err().map(|error| hvckpt::explain(error)),
        "ok": good,
    });
    println!("{line}");
    std::process::exit(i32::from(!good));
}
