// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the store does beside the application: writing behind, and sending to
//! a backup.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use hvckpt::backup::{Replication, Require, Server, ServerOptions, add_key};
use hvckpt::store::{Compression, Durability, Durable, StoreOptions};
use hvckpt::{LockPolicy, TrackerKind};

use crate::peers::Result;
use crate::{PAGE, PAGES, WORDS, fill, micros, percentile, random, region};

/// What an asynchronous commit adds to the tracker.
pub fn asynchronous(directory: &Path, commits: usize) -> Result<()> {
    println!("\nasynchronous commit, PT tracker (us; medians of {commits})");
    println!(
        "{:>8} {:>12} {:>12} {:>12} {:>16}",
        "pages", "tracker", "commit", "one copy", "(added) / copy"
    );
    let mut options = StoreOptions::default();
    options.compression = Compression::None;
    options.queue_bytes = 1 << 30;
    options.interval = Duration::from_secs(3600);
    let durable = region(directory, "async", PAGES, options)?;
    let plain = hvckpt::register_cda()
        .pages(PAGES)
        .tracker(TrackerKind::Pt)
        .lock(LockPolicy::IfAllowed)
        .register()?;
    let mut copy = vec![0_u64; PAGES * WORDS];
    for dirty in [1, 16, 256] {
        let (mut tracked, mut committed, mut copied) = (Vec::new(), Vec::new(), Vec::new());
        let mut open = plain.begin()?;
        let before = durable.store().metrics().copied_bytes();
        for n in 0..commits as u64 {
            let pages = (0..dirty).map(|page| page * (PAGES / dirty) * WORDS);
            pages
                .clone()
                .for_each(|at| plain.atomics_u64()[at].store(n + 1, Relaxed));
            let start = Instant::now();
            drop(open.commit_and_continue()?);
            tracked.push(start.elapsed());
            let transaction = durable.begin()?;
            pages
                .clone()
                .for_each(|at| durable.atomics_u64()[at].store(n + 1, Relaxed));
            let start = Instant::now();
            transaction.commit(Durability::Async)?;
            committed.push(start.elapsed());
            let start = Instant::now();
            for at in pages {
                let from = &plain.atomics_u64()[at..at + WORDS];
                for (to, word) in copy[at..at + WORDS].iter_mut().zip(from) {
                    *to = word.load(Relaxed);
                }
            }
            copied.push(start.elapsed());
            std::hint::black_box(&copy);
            if n.is_multiple_of(16) {
                durable.store().flush()?;
            }
        }
        drop(open);
        let bytes = durable.store().metrics().copied_bytes() - before;
        if bytes != (commits * dirty * PAGE) as u64 {
            return Err(format!("{bytes} bytes were copied for {dirty} pages a commit").into());
        }
        let median = |times: &mut Vec<Duration>| micros(percentile(times, 50));
        let (tracked, committed, copied) = (
            median(&mut tracked),
            median(&mut committed),
            median(&mut copied),
        );
        println!(
            "{dirty:>8} {tracked:>12.1} {committed:>12.1} {copied:>12.1} {:>16.2}",
            (committed - tracked) / copied
        );
    }
    println!("copied from the region: each dirty page once");
    Ok(())
}

/// Commits so many pages a version, without waiting, until all of it is on the
/// disk, and on the backup if there is one; the time.
fn stream(store: &Durable, pages: usize, seed: &mut u64) -> Result<Duration> {
    const GROUP: usize = 256;
    let start = Instant::now();
    for first in (0..pages).step_by(GROUP) {
        let transaction = store.begin()?;
        fill(store, first..(first + GROUP).min(pages), seed);
        transaction.commit(Durability::Async)?;
    }
    store.store().flush()?;
    if store.store().replica().is_some() {
        store.store().wait_for_backup(store.version())?;
    }
    Ok(start.elapsed())
}

/// How fast a backup on this machine follows, and what waiting for it costs.
pub fn replication(directory: &Path, commits: usize, mib: usize) -> Result<()> {
    let pages = mib * (1 << 20) / PAGE;
    let there = directory.join("backup");
    let mut how = ServerOptions::new(&there, "127.0.0.1:0");
    how.log = Arc::new(|_| {});
    let key = add_key(&there, "bench")?;
    let backup = Server::start(how)?;
    let mut options = StoreOptions::default();
    options.queue_bytes = 8 << 20;
    let alone = region(directory, "alone", pages, options.clone())?;
    let mut replication = Replication::new(backup.address().to_string(), key);
    replication.require = Require::Both;
    options.replication = Some(replication.into());
    let followed = region(directory, "followed", pages, options)?;
    let mut seed = 11;
    let (local, both) = (
        stream(&alone, pages, &mut seed)?,
        stream(&followed, pages, &mut seed)?,
    );
    println!("\nreplication over the loopback, incompressible pages, both disks the same");
    let rate = |time: Duration| mib as f64 / time.as_secs_f64();
    println!(
        "{mib} MiB, 1 MiB a version:  local {:.0} MiB/s, until the backup has it {:.0} MiB/s ({:.2} x the time)",
        rate(local),
        rate(both),
        both.as_secs_f64() / local.as_secs_f64()
    );
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for _ in 0..commits {
        let word = random(&mut seed) as usize % (pages * WORDS);
        let value = random(&mut seed);
        for (store, times) in [(&alone, &mut here), (&followed, &mut there)] {
            let transaction = store.begin()?;
            store.atomics_u64()[word].store(value, Relaxed);
            let start = Instant::now();
            transaction.commit(Durability::Sync)?;
            times.push(start.elapsed());
        }
    }
    let (here, there) = (percentile(&mut here, 50), percentile(&mut there, 50));
    println!(
        "commit of one word:  local {:.1} us, on both disks {:.1} us ({:.2} x)",
        micros(here),
        micros(there),
        micros(there) / micros(here)
    );
    let status = followed.store().replica();
    let caught_up = status.map_or(0, |status| status.catch_ups);
    println!("caught up from the store {caught_up} times");
    drop(followed);
    drop(alone);
    for name in ["alone", "followed"] {
        std::fs::remove_dir_all(directory.join(name))?;
    }
    Ok(())
}
