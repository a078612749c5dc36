// SPDX-License-Identifier: MIT OR Apache-2.0
//! What durable commits cost, next to redb, SQLite and LMDB, for the same
//! updates on the same disk, in turn; what asynchronous commits cost next to
//! the tracker alone; how long recovery takes; and how fast a backup follows.

mod background;
mod peers;
mod recover;
mod sync;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hvckpt::store::{Durable, StoreOptions};
use hvckpt::{LockPolicy, TrackerKind};
use peers::Result;

/// Size of the area whose pages are committed one by one, in pages.
const PAGES: usize = 1024;
const PAGE: usize = 4096;
const WORDS: usize = PAGE / 8;
const USAGE: &str = "usage: hvckpt-bench-store DIRECTORY [COMMITS [RECOVERY_MIB]]
  DIRECTORY     a new directory, on the disk in question; removed afterwards
  COMMITS       of each kind (300)
  RECOVERY_MIB  size of the areas which are recovered and replicated (256)";

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    seed.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// A region in a store of its own.
fn region(directory: &Path, name: &str, pages: usize, options: StoreOptions) -> Result<Durable> {
    Ok(Durable::builder(name)
        .pages(pages)
        .tracker(TrackerKind::Pt)
        .lock(LockPolicy::IfAllowed)
        .options(options)
        .open(directory.join(name))?)
}

/// Fills pages with what does not compress.
fn fill(region: &Durable, pages: core::ops::Range<usize>, seed: &mut u64) {
    for cell in &region.atomics_u64()[pages.start * WORDS..pages.end * WORDS] {
        cell.store(random(seed), Relaxed);
    }
}

/// So many percent took no longer.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or_default()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Where this runs: kernel, processors, load, file system.
fn machine(directory: &Path) -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    let cpus = std::thread::available_parallelism().map_or(0, |cpus| cpus.get());
    let path = directory.canonicalize().unwrap_or_default();
    // The mount whose path is the longest beginning of ours.
    let mounts = read("/proc/mounts");
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let mount = mounts.filter(|(at, _)| path.starts_with(at));
    let kind = mount
        .max_by_key(|(at, _)| at.len())
        .map_or("?", |(_, kind)| kind);
    format!(
        "Linux {}, {cpus} processors, load {}, {kind}",
        kernel.trim(),
        load.split(' ').next().unwrap_or("?")
    )
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hvckpt-bench-store: {}", hvckpt::explain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// An argument, or what is usual.
fn number(name: &str, text: Option<String>, usual: usize) -> Result<usize> {
    text.map_or(Some(usual), |text| text.parse().ok())
        .filter(|number| (1..=50_000).contains(number))
        .ok_or_else(|| format!("{name} is a number from 1 to 50000").into())
}

fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or(USAGE)?);
    let commits = number("COMMITS", arguments.next(), 300)?;
    let mib = number("MIB", arguments.next(), 256)?;
    if arguments.next().is_some() {
        return Err(USAGE.into());
    }
    if directory.exists() {
        return Err(format!("{} exists; name a new directory", directory.display()).into());
    }
    fs::create_dir_all(&directory)?;
    println!("Wall times: of this machine, this disk and this moment. Ratios are within this run.");
    println!("{}", machine(&directory));
    let result = sync::run(&directory, commits)
        .and_then(|()| background::asynchronous(&directory, commits))
        .and_then(|()| background::replication(&directory, commits, mib))
        .and_then(|()| recover::run(&directory, mib));
    fs::remove_dir_all(&directory)?;
    result
}
