// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every tracker against a byte comparison: thousands of random transactions
//! on a small area, by one thread and by several.
//!
//! `HVCKPT_DIFF_TRANSACTIONS` (1,000 per tracker and number of threads)
//! changes the run.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{Rng, Stop, region, trackers};
use hvckpt::{DirtyPages, PAGE_SIZE, Region, TrackerKind};

const PAGES: usize = 24;

fn transactions() -> usize {
    common::number("HVCKPT_DIFF_TRANSACTIONS", 1_000)
}

/// One random write, of one to eight bytes, at times of zero bytes changed.
fn scribble(region: &Region, rng: &mut Rng) {
    let at = rng.below(region.bytes());
    match rng.below(4) {
        0 => region.atomics_u8()[at].store(u8::try_from(at % 251).unwrap_or(0), Ordering::Relaxed),
        1 => {
            region.atomics_u8()[at].fetch_add(1, Ordering::Relaxed);
        }
        2 => region.atomics_u64()[at / 8].store(rng.below(1 << 30) as u64, Ordering::Relaxed),
        _ => {
            region.atomics_u64()[at / 8].fetch_xor(1 << (at % 64), Ordering::Relaxed);
        }
    }
}

/// A copy of the area, and what is owed by the next list.
struct Referee<'a> {
    region: &'a Region,
    copy: Vec<u64>,
    owed: [bool; PAGES],
    changed: usize,
}

impl<'a> Referee<'a> {
    fn new(region: &'a Region) -> Self {
        let mut referee = Self {
            region,
            copy: vec![0; region.bytes() / 8],
            owed: [false; PAGES],
            changed: 0,
        };
        referee.look();
        referee
    }

    fn look(&mut self) {
        for (copy, word) in self.copy.iter_mut().zip(self.region.atomics_u64()) {
            *copy = word.load(Ordering::Relaxed);
        }
    }

    /// `racing`: what changed after the list was made is in the next one.
    fn judge(&mut self, list: &DirtyPages<'_>, racing: bool) {
        let kind = self.region.tracker();
        assert!(!list.lost(), "{kind}");
        let mut listed = [false; PAGES];
        list.iter().for_each(|page| listed[page] = true);
        // Single writes, of trackers which log them: a bit per byte.
        let written = list.written().map(|writes| {
            let mut bytes = vec![false; self.region.bytes()];
            for write in writes {
                let first = usize::try_from(write.offset).unwrap();
                bytes[first..first + write.bytes as usize].fill(true);
            }
            bytes
        });
        let mut changed = [false; PAGES];
        let words = self.copy.iter_mut().zip(self.region.atomics_u64());
        for (at, (copy, word)) in words.enumerate() {
            let now = word.load(Ordering::Relaxed);
            if now == *copy {
                continue;
            }
            changed[at * 8 / PAGE_SIZE] = true;
            if let Some(written) = written.as_ref().filter(|_| !racing) {
                let bytes = now.to_le_bytes().into_iter().zip(copy.to_le_bytes());
                for (byte, (now, before)) in bytes.enumerate() {
                    assert!(
                        now == before || written[at * 8 + byte],
                        "{kind}: a change of word {at} is not in the log"
                    );
                }
            }
            *copy = now;
        }
        for page in 0..PAGES {
            self.changed += usize::from(changed[page]);
            let missing = !listed[page];
            assert!(!(self.owed[page] && missing), "{kind} missed page {page}");
            self.owed[page] = changed[page] && missing;
            assert!(racing || !self.owed[page], "{kind} missed page {page}");
        }
    }
}

#[test]
fn one_thread() {
    for kind in trackers() {
        let region = region(kind, PAGES);
        let mut rng = Rng::new(1);
        let mut referee = Referee::new(&region);
        let mut transaction = region.begin().unwrap();
        for number in 0..transactions() {
            for _ in 0..rng.below(6) {
                scribble(&region, &mut rng);
            }
            if number % 7 == 0 {
                referee.judge(&transaction.commit().unwrap(), false);
                transaction = region.begin().unwrap();
            } else {
                referee.judge(&transaction.commit_and_continue().unwrap(), false);
            }
        }
        assert!(referee.changed > transactions(), "{kind}");
    }
}

/// Threads write without ever stopping.
#[test]
fn several_threads() {
    for kind in trackers() {
        several(kind);
    }
}

fn several(kind: TrackerKind) {
    let region = region(kind, PAGES);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        let mut transaction = region.begin().unwrap();
        let mut referee = Referee::new(&region);
        for seed in 0..2 {
            let (region, stop) = (&region, &stop);
            scope.spawn(move || {
                let mut rng = Rng::new(seed + 100);
                while !stop.load(Ordering::Relaxed) {
                    scribble(region, &mut rng);
                }
            });
        }
        // However seldom the writers run.
        let enough = transactions();
        let mut rounds = 0;
        while rounds < enough || referee.changed < enough {
            rounds += 1;
            referee.judge(&transaction.commit_and_continue().unwrap(), true);
        }
    });
}
