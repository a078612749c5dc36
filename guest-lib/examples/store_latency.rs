// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a durable commit costs: synchronous commits of one page, next to
//! writes and syncs of as many bytes to a plain file, in the same directory
//! and in turn; asynchronous ones; and how many commits threads make which
//! share syncs, while another one reads.
//!
//! Usage: store_latency DIRECTORY [COMMITS [TRACKER]]

#[macro_use]
#[path = "common/say.rs"]
mod say;

use std::convert::Infallible;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use hvckpt::arena::{Arena, ArenaRoot};
use hvckpt::store::{Durability, Durable};
use hvckpt::{LockPolicy, TrackerKind};

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

struct Counts([u64; 64]);

// SAFETY: plain numbers.
#[allow(unsafe_code)]
unsafe impl ArenaRoot for Counts {
    const TAG: u64 = 1;
}

/// Threads which commit one word each, all in one region.
fn threads(
    directory: &Path,
    tracker: TrackerKind,
    durability: Durability,
    time: Duration,
) -> Result<(), Box<dyn std::error::Error>> {
    let region = Durable::builder("threads")
        .pages(16)
        .tracker(tracker)
        .lock(LockPolicy::IfAllowed)
        .open(directory)?;
    let arena = Arena::open(region, |_| Counts([0; 64]))?;
    let metrics = arena.store().metrics();
    say!("{durability:?}: threads, commits a second, commits a sync, a read takes (median)");
    for threads in [1, 2, 8, 32] {
        let stop = AtomicBool::new(false);
        let before = (metrics.commits(durability).count(), metrics.syncs().count());
        let start = Instant::now();
        let reads = std::thread::scope(|scope| {
            for thread in 0..threads {
                let (arena, stop) = (&arena, &stop);
                scope.spawn(move || {
                    while !stop.load(Relaxed) {
                        let update = arena.update(durability, |counts| {
                            counts.0[thread] += 1;
                            Ok::<_, Infallible>(())
                        });
                        if let Err(error) = update {
                            return complain!("{}", hvckpt::explain(&error));
                        }
                    }
                });
            }
            let mut reads = Vec::new();
            while start.elapsed() < time {
                let start = Instant::now();
                arena.read(|counts| counts.0[0]);
                reads.push(start.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            stop.store(true, Relaxed);
            reads
        });
        let seconds = start.elapsed().as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // counts of some thousands
        let since = |now: u64, before: u64| (now - before) as f64;
        let commits = since(metrics.commits(durability).count(), before.0);
        let syncs = since(metrics.syncs().count(), before.1);
        say!(
            "{threads:7} {:10.0} {:8.1}   {:?}",
            commits / seconds,
            commits / syncs,
            median(reads)
        );
    }
    Ok(())
}

fn main() -> ExitCode {
    let fail = |error: &(dyn std::error::Error + 'static), status| {
        complain!("store_latency: {}", hvckpt::explain(error));
        ExitCode::from(status)
    };
    match arguments() {
        Err(error) => fail(&*error, 2),
        Ok((directory, commits, tracker)) => match measure(&directory, commits, tracker) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&*error, 1),
        },
    }
}

fn arguments() -> Result<(String, usize, TrackerKind), Box<dyn std::error::Error>> {
    const USAGE: &str = "usage: store_latency DIRECTORY [COMMITS [TRACKER]]";
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().filter(|name| !name.starts_with('-'));
    let directory = directory.ok_or(USAGE)?;
    let commits = arguments.next().map_or(Some(500), |text| text.parse().ok());
    let commits: usize = commits
        .filter(|commits| (1..=10_000_000).contains(commits))
        .ok_or("COMMITS is a number from 1 to 10000000")?;
    let tracker = arguments
        .next()
        .map_or(Ok(TrackerKind::Pt), |name| name.parse())?;
    match arguments.next() {
        Some(_) => Err(USAGE.into()),
        None => Ok((directory, commits, tracker)),
    }
}

fn measure(
    directory: &str,
    commits: usize,
    tracker: TrackerKind,
) -> Result<(), Box<dyn std::error::Error>> {
    let region = Durable::builder("latency")
        .pages(1024)
        .tracker(tracker)
        .lock(LockPolicy::IfAllowed)
        .open(directory)?;
    let plain_path = Path::new(directory).join("plain");
    let plain = File::create(&plain_path)?;
    let (mut offset, mut bare, mut synced, mut async_) = (0, Vec::new(), Vec::new(), Vec::new());
    for n in 0..commits {
        let commit = |durability| {
            let transaction = region.begin()?;
            region.atomics_u64()[n * 97 % 1024 * 512 + n % 512].fetch_add(1, Relaxed);
            let start = Instant::now();
            transaction.commit(durability)?;
            Ok::<_, hvckpt::store::DurableError>(start.elapsed())
        };
        synced.push(commit(Durability::Sync)?);
        let bytes = region
            .store()
            .versions()
            .last()
            .map_or(0, |version| version.bytes);
        let bytes = vec![n.to_le_bytes()[0]; usize::try_from(bytes)?];
        let start = Instant::now();
        plain.write_all_at(&bytes, offset)?;
        plain.sync_data()?;
        bare.push(start.elapsed());
        offset += bytes.len() as u64;
        if n % 4 == 0 {
            async_.push(commit(Durability::Async)?);
            region.store().flush()?;
        }
    }
    std::fs::remove_file(plain_path)?;
    let (bare, synced, async_) = (median(bare), median(synced), median(async_));
    say!("tracker                {}", region.region().tracker());
    say!("bytes a commit         {}", offset / commits.max(1) as u64);
    say!("plain write and sync   {bare:?}");
    say!("synchronous commit     {synced:?}");
    say!("asynchronous commit    {async_:?}");
    say!(
        "ratio                  {:.2}",
        synced.as_secs_f64() / bare.as_secs_f64()
    );
    drop(region);
    let time = Duration::from_millis(6 * u64::try_from(commits)?);
    for durability in [Durability::Group, Durability::Sync] {
        let directory = Path::new(directory).join(format!("{durability:?}"));
        threads(&directory, tracker, durability, time)?;
    }
    Ok(())
}
