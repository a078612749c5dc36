// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long an area takes to come back.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use hvckpt::store::{Durability, StoreKey, StoreOptions};

use crate::peers::Result;
use crate::{PAGE, random, region};

/// Has the kernel forget what it read.  Needs root; without it the figure is
/// of a warm cache.
fn cool(directory: &Path) -> Result<bool> {
    for entry in fs::read_dir(directory)? {
        File::open(entry?.path())?.sync_all()?;
    }
    Ok(fs::write("/proc/sys/vm/drop_caches", "3").is_ok())
}

/// Reads every file; how many bytes.
fn read(directory: &Path) -> Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    for entry in fs::read_dir(directory)? {
        let mut file = File::open(entry?.path())?;
        loop {
            let got = file.read(&mut buffer)?;
            if got == 0 {
                break;
            }
            total += got as u64;
        }
    }
    Ok(total)
}

/// Recovers areas of so many MiB.
pub fn run(directory: &Path, mib: usize) -> Result<()> {
    let pages = mib * (1 << 20) / PAGE;
    let mut cold = true;
    println!("\nrecovery of {mib} MiB");
    println!(
        "{:<16} {:>8} {:>10} {:>12} {:>16}",
        "pages", "s", "s a GiB", "files, MiB", "x reading them"
    );
    for (name, encrypt, noise) in [
        ("compressible", false, false),
        ("noise", false, true),
        ("encrypted noise", true, true),
    ] {
        let mut options = StoreOptions::default();
        options.key = encrypt.then(StoreKey::generate).transpose()?;
        let store = region(directory, name, pages, options.clone())?;
        let transaction = store.begin()?;
        let mut seed = 7;
        for (n, cell) in store.atomics_u64().iter().enumerate() {
            let word = if noise || n.is_multiple_of(8) {
                random(&mut seed)
            } else {
                5
            };
            cell.store(word, Relaxed);
        }
        transaction.commit(Durability::Sync)?;
        drop(store);
        let path = directory.join(name);
        cold &= cool(&path)?;
        let start = Instant::now();
        let bytes = read(&path)?;
        let bare = start.elapsed().as_secs_f64();
        cold &= cool(&path)?;
        let start = Instant::now();
        let store = region(directory, name, pages, options)?;
        let took = start.elapsed().as_secs_f64();
        let mut seed = 7;
        if store.atomics_u64()[0].load(Relaxed) != random(&mut seed) {
            return Err(format!("{name} did not come back").into());
        }
        drop(store);
        println!(
            "{name:<16} {took:>8.2} {:>10.2} {:>12} {:>16.2}",
            took * 1024.0 / mib as f64,
            bytes >> 20,
            took / bare
        );
        fs::remove_dir_all(path)?;
    }
    println!("{} cache", if cold { "cold" } else { "warm" });
    Ok(())
}
