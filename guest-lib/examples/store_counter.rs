// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts for ever in a durable region, and says each number once it is on
//! stable storage.  Kill it whenever you like, and start it again.
//!
//! Usage: store_counter DIRECTORY [TRACKER]
//! HVCKPT_STORE_KEY names the key file of an encrypted store.

#![allow(clippy::cast_possible_truncation)] // 64-bit only

#[macro_use]
#[path = "common/say.rs"]
mod say;

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hvckpt::store::{Durability, Durable, StoreKey, StoreOptions};
use hvckpt::{LockPolicy, TrackerKind};

const USAGE: &str = "usage: store_counter DIRECTORY [TRACKER]";
/// Size of the region.
pub const PAGES: usize = 150;
const WORDS: usize = PAGES * 512;

/// The words which transaction `n` sets to `n`; the first one is the counter.
pub fn words(n: u64) -> impl Iterator<Item = usize> {
    let scattered = (1..6_u64).map(move |k| {
        let mixed = (n * 8 + k).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        1 + mixed as usize % (WORDS - 1)
    });
    core::iter::once(0).chain(scattered)
}

/// Counts until it is killed, or something fails.
pub fn run(directory: &Path, tracker: TrackerKind) -> Result<(), Box<dyn std::error::Error>> {
    let mut options = StoreOptions::default();
    // Small, so that images change and compaction runs all the time.
    options.image_bytes = 64 << 10;
    options.compact_bytes = 256 << 10;
    options.interval = Duration::from_millis(1);
    if let Some(file) = std::env::var_os("HVCKPT_STORE_KEY") {
        options.key = Some(StoreKey::load(file)?);
    }
    let region = Durable::builder("counter")
        .pages(PAGES)
        .tracker(tracker)
        .lock(LockPolicy::IfAllowed)
        .options(options)
        .open(directory)?;
    let cell = |word: usize| &region.atomics_u64()[word];
    loop {
        let n = cell(0).load(Relaxed) + 1;
        let transaction = region.begin()?;
        words(n).for_each(|word| cell(word).store(n, Relaxed));
        if n % 7 == 0 {
            transaction.abort();
            let again = region.begin()?;
            words(n).for_each(|word| cell(word).store(n, Relaxed));
            again.commit(Durability::Async)?;
            continue;
        }
        let durability = [Durability::Sync, Durability::Group, Durability::Async][(n % 3) as usize];
        transaction.commit(durability)?;
        if durability != Durability::Async {
            say!("{n}");
        }
    }
}

#[allow(dead_code)] // a test has its own
fn main() {
    if let Err(error) = arguments().and_then(|(directory, tracker)| run(&directory, tracker)) {
        complain!("store_counter: {}", hvckpt::explain(&*error));
        std::process::exit(2);
    }
}

#[allow(dead_code)]
fn arguments() -> Result<(std::path::PathBuf, TrackerKind), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (directory, tracker) = (arguments.next(), arguments.next());
    let (Some(directory), None) = (directory, arguments.next()) else {
        return Err(USAGE.into());
    };
    if directory.as_encoded_bytes().starts_with(b"-") {
        return Err(USAGE.into());
    }
    let tracker = tracker.map_or(Ok(TrackerKind::Pt), |name| name.to_string_lossy().parse());
    Ok((directory.into(), tracker?))
}
