// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a transaction costs: the kernel of the benchmarks.
//!
//! Time is CLOCK_MONOTONIC; under an emulator which counts instructions one
//! nanosecond is one instruction.  Prints one line of JSON.

use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use hvckpt::{CycleError, LockPolicy, Region, TrackerKind, abi, sys::gate};

/// Measures transactions which dirty K pages each.
#[derive(Parser, Debug)]
struct Args {
    /// Tracker, by the name which `hvckpt doctor` prints.
    #[arg(long, default_value = "ptxen")]
    tracker: TrackerKind,
    /// Pages in the area.
    #[arg(long, default_value_t = 1024, value_parser = hvckpt_guest_tests::some)]
    pages: usize,
    /// Pages dirtied in each transaction, one write of eight bytes each.
    #[arg(long, default_value_t = 64, value_parser = hvckpt_guest_tests::some)]
    dirty: usize,
    /// Transactions measured.
    #[arg(long, default_value_t = 100, value_parser = hvckpt_guest_tests::some)]
    transactions: usize,
    /// Transactions before.
    #[arg(long, default_value_t = 5, value_parser = hvckpt_guest_tests::any)]
    warmup: usize,
    /// Which pages.
    #[arg(long, value_enum, default_value = "contiguous")]
    pattern: Pattern,
    /// Begin and end each transaction, instead of commit-and-continue.
    #[arg(long)]
    pairs: bool,
    /// Writes to each dirty page.
    #[arg(long, default_value_t = 1, value_parser = hvckpt_guest_tests::some)]
    writes: usize,
    /// Measure the gate alone: the mean of this many empty crossings.
    #[arg(long, value_name = "CALLS", num_args = 0..=1, default_missing_value = "10000", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    gate: Option<u64>,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum Pattern {
    /// The first K pages, every time.
    Contiguous,
    /// K pages at equal distances, the same every time.
    Spread,
    /// K neighbours, other ones every time.
    Rotate,
}

impl Pattern {
    fn page(self, args: &Args, transaction: usize, index: usize) -> usize {
        match self {
            Self::Contiguous => index,
            Self::Spread => index * (args.pages / args.dirty),
            Self::Rotate => (transaction * args.dirty + index) % args.pages,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Contiguous => "contiguous",
            Self::Spread => "spread",
            Self::Rotate => "rotate",
        }
    }
}

/// Nanoseconds of each transaction.
#[derive(Debug, Default)]
struct Phases {
    begin: Vec<u64>,
    write: Vec<u64>,
    commit: Vec<u64>,
    /// Dirty pages which the lists named.
    listed: usize,
}

fn mean(samples: &[u64]) -> f64 {
    samples.iter().sum::<u64>() as f64 / samples.len() as f64
}

/// What a transaction costs which no timer interrupts.
fn median(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

fn nanoseconds(since: Instant, until: Instant) -> u64 {
    u64::try_from((until - since).as_nanos()).unwrap_or(u64::MAX)
}

/// What reading the clock costs, when no timer interrupts.
fn clock_cost() -> u64 {
    let at: Vec<_> = (0..1000).map(|_| Instant::now()).collect();
    let each: Vec<_> = at.windows(2).map(|w| nanoseconds(w[0], w[1])).collect();
    median(&each)
}

fn write(region: &Region, args: &Args, transaction: usize) {
    let words = region.atomics_u64();
    for index in 0..args.dirty {
        let word = args.pattern.page(args, transaction, index) * 512;
        for offset in 0..args.writes {
            words[word + offset % 512].store(transaction as u64, Ordering::Relaxed);
        }
    }
}

/// One after the other, the clock read twice in all.
fn whole(region: &Region, args: &Args, first: usize) -> Result<(u64, usize), CycleError> {
    let mut listed = 0;
    let range = first..first + args.transactions;
    let start;
    if args.pairs {
        start = Instant::now();
        for number in range {
            let transaction = region.begin()?;
            write(region, args, number);
            listed += transaction.commit()?.len();
        }
    } else {
        let mut transaction = region.begin()?;
        start = Instant::now();
        for number in range {
            write(region, args, number);
            listed += transaction.commit_and_continue()?.len();
        }
    }
    Ok((nanoseconds(start, Instant::now()), listed))
}

/// Phase by phase.
fn phases(region: &Region, args: &Args, first: usize, count: usize) -> Result<Phases, CycleError> {
    let clock = clock_cost();
    let mut sum = Phases::default();
    let mut add = |at: [Instant; 4]| {
        sum.begin
            .push(nanoseconds(at[0], at[1]).saturating_sub(clock));
        sum.write
            .push(nanoseconds(at[1], at[2]).saturating_sub(clock));
        sum.commit
            .push(nanoseconds(at[2], at[3]).saturating_sub(clock));
    };
    let mut listed = 0;
    if args.pairs {
        for number in first..first + count {
            let start = Instant::now();
            let transaction = region.begin()?;
            let begun = Instant::now();
            write(region, args, number);
            let written = Instant::now();
            listed += transaction.commit()?.len();
            add([start, begun, written, Instant::now()]);
        }
    } else {
        let mut transaction = region.begin()?;
        for number in first..first + count {
            let begun = Instant::now();
            write(region, args, number);
            let written = Instant::now();
            listed += transaction.commit_and_continue()?.len();
            add([begun, begun, written, Instant::now()]);
        }
    }
    sum.listed = listed;
    Ok(sum)
}

fn counters(before: abi::cda_counters, after: abi::cda_counters) -> serde_json::Value {
    serde_json::json!({
        "crossings": after.crossings - before.crossings,
        "restarts": after.restarts - before.restarts,
        "faults_fixed": after.faults_fixed - before.faults_fixed,
        "faults_forwarded": after.faults_forwarded - before.faults_forwarded,
        "faults_spurious": after.faults_spurious - before.faults_spurious,
        "faults_xen": after.faults_xen - before.faults_xen,
        "guest_updates": after.guest_updates - before.guest_updates,
        "write_protected": after.write_protected - before.write_protected,
        "walks": after.walks - before.walks,
        "forks": after.forks - before.forks,
        "flushes": after.flushes - before.flushes,
        "cycles": after.cycles - before.cycles,
        "watched": after.watched - before.watched,
        "heated": after.heated - before.heated,
        "cooled": after.cooled - before.cooled,
        "emulated": after.emulated - before.emulated,
        "degraded": after.degraded - before.degraded,
    })
}

fn measure_gate(calls: u64) -> Result<serde_json::Value, hvckpt::AttachError> {
    let answer = hvckpt::Attach::new().gate()?;
    let crossing = || {
        // SAFETY: there is a gate, and this operation takes no arguments.
        black_box(unsafe { gate::int84(abi::CDA_OP_VERSION, [0; 5]) });
    };
    (0..100).for_each(|_| crossing());
    let start = Instant::now();
    (0..calls).for_each(|_| crossing());
    let ns = nanoseconds(start, Instant::now());
    // The same loop with a system call which does nothing.
    let start = Instant::now();
    for _ in 0..calls {
        // SAFETY: no arguments, no effect.
        black_box(unsafe { libc::syscall(libc::SYS_getppid) });
    }
    let syscalls = nanoseconds(start, Instant::now());
    Ok(serde_json::json!({
        "program": "cost", "measure": "gate", "calls": calls, "capabilities": answer,
        "ns": ns, "ns_per_call": ns as f64 / calls as f64,
        "ns_per_syscall": syscalls as f64 / calls as f64,
    }))
}

fn measure(args: &Args) -> Result<serde_json::Value, CycleError> {
    let region = hvckpt_guest_tests::region(args.tracker, args.pages, LockPolicy::IfAllowed);
    let start = Instant::now();
    region.begin()?.end()?;
    let first_cycle = nanoseconds(start, Instant::now());
    phases(&region, args, 0, args.warmup)?;
    let before = region.counters();
    let (ns, listed) = whole(&region, args, args.warmup)?;
    let after = region.counters();
    let split = phases(
        &region,
        args,
        args.warmup + args.transactions,
        args.transactions,
    )?;
    let per = |value: u64| value as f64 / args.transactions as f64;
    Ok(serde_json::json!({
        "program": "cost",
        "measure": "transaction",
        "tracker": region.tracker().name(),
        "pages": args.pages,
        "dirty": args.dirty,
        "transactions": args.transactions,
        "writes": args.writes,
        "pattern": args.pattern.name(),
        "pairs": args.pairs,
        "locked": region.locked(),
        "ns": ns,
        "ns_per_transaction": per(ns),
        "ns_per_page": per(ns) / args.dirty as f64,
        "first_cycle_ns": first_cycle,
        "begin_ns": mean(&split.begin),
        "write_ns": mean(&split.write),
        "commit_ns": mean(&split.commit),
        "begin_median_ns": median(&split.begin),
        "write_median_ns": median(&split.write),
        "commit_median_ns": median(&split.commit),
        "clock_ns": clock_cost(),
        "listed": listed,
        "listed_split": split.listed,
        "exact": listed == args.transactions * args.dirty,
        "faults": after.faults.zip(before.faults).map(|(after, before)| after - before),
        "counters": after.hypervisor.zip(before.hypervisor).map(|(a, b)| counters(b, a)),
    }))
}

fn main() {
    hvckpt_guest_tests::end_with_the_reader();
    let args = Args::parse();
    if args.dirty > args.pages || args.writes > 512 {
        eprintln!(
            "--dirty must be 1 to --pages ({}), --writes 1 to 512",
            args.pages
        );
        std::process::exit(2);
    }
    let result = match args.gate {
        Some(calls) => measure_gate(calls).map_err(hvckpt::Error::from),
        None => measure(&args).map_err(hvckpt::Error::from),
    };
    match result {
        Ok(line) => println!("{line}"),
        Err(error) => {
            eprintln!("{}", hvckpt::explain(&error));
            std::process::exit(2);
        }
    }
}
