// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was committed and is not durable yet, and who waits for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::error::StoreError;
use super::frame::Before;
use super::writer::Batch;

/// Refused versions which nobody waited for are remembered, so many at most.
const REMEMBERED: usize = 4096;

/// Who waits for a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiter {
    /// Nobody: it stays until it can be written.
    None,
    /// One who may wait a little longer, so that others share the sync.
    Patient,
    /// One who may not.
    Hasty,
}

/// A version in the queue.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) batch: Arc<Batch>,
    /// The area of a region, whose versions build on each other.
    pub(super) origin: Option<u32>,
    pub(super) waiter: Waiter,
}

/// Why a region must go back, and to before which version.
#[derive(Debug)]
struct Broken {
    from: u64,
    error: StoreError,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) pending: VecDeque<Entry>,
    pub(super) bytes: usize,
    /// Number of the next version.
    pub(super) next: u64,
    /// Newest version on stable storage.
    pub(super) durable: u64,
    /// What waits could not be written.
    pub(super) failed: bool,
    /// One of those who wait writes for all.
    pub(super) leading: bool,
    /// Versions in the queue which somebody waits for.
    pub(super) waited: usize,
    /// Those of them for which nobody may tarry.
    pub(super) hasty: usize,
    /// How many are likely to wait at the same time.
    pub(super) expected: usize,
    /// Refused, and who waits has not been told.
    refused: BTreeMap<u64, StoreError>,
    /// Refused, though nobody waited: built on one which was.
    taken: BTreeSet<u64>,
    /// Regions which have not gone back yet to what was not refused.
    broken: BTreeMap<u32, Broken>,
}

impl Queue {
    pub(super) fn new(durable: u64, next: u64) -> Self {
        Self {
            durable,
            next,
            ..Self::default()
        }
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.batch.bytes();
        self.count(entry.waiter);
        self.pending.push_back(entry);
    }

    fn count(&mut self, waiter: Waiter) {
        self.waited += usize::from(waiter != Waiter::None);
        self.hasty += usize::from(waiter == Waiter::Hasty);
    }

    fn recount(&mut self) {
        (self.bytes, self.waited, self.hasty) = (0, 0, 0);
        for entry in std::mem::take(&mut self.pending) {
            self.push(entry);
        }
    }

    pub(super) fn batches(&self) -> Vec<Arc<Batch>> {
        self.pending.iter().map(|e| e.batch.clone()).collect()
    }

    /// The first ones are durable, up to this version; how many of them were
    /// waited for.
    pub(super) fn written(&mut self, count: usize, durable: u64) -> usize {
        let before = self.waited;
        for entry in self.pending.drain(..count) {
            self.bytes -= entry.batch.bytes();
            self.waited -= usize::from(entry.waiter != Waiter::None);
            self.hasty -= usize::from(entry.waiter == Waiter::Hasty);
        }
        self.durable = durable;
        self.failed = false;
        before - self.waited
    }

    /// Gives up versions for which somebody waits: all up to `last`, or that
    /// one alone.  What was built on them goes with them, what others
    /// committed stays.
    pub(super) fn refuse(&mut self, last: u64, alone: bool, error: &StoreError) {
        let mut pages = BTreeSet::new();
        for mut entry in std::mem::take(&mut self.pending) {
            let version = entry.batch.version;
            let meant = if alone {
                version == last
            } else {
                version <= last
            };
            // What is older than the one which was refused stays.
            let broken = entry.origin.and_then(|origin| self.broken.get(&origin));
            let broken = broken.is_some_and(|broken| version >= broken.from);
            let refused = broken || (meant && entry.waiter != Waiter::None);
            if !refused {
                entry.batch = without(entry.batch, &pages);
                self.pending.push_back(entry);
                continue;
            }
            pages.extend(entry.batch.changes.iter().map(|c| (c.area, c.page)));
            if entry.waiter == Waiter::None {
                self.taken.insert(version);
            } else {
                self.refused.insert(version, error.again());
            }
            if let Some(origin) = entry.origin {
                self.broken.entry(origin).or_insert_with(|| Broken {
                    from: version,
                    error: error.again(),
                });
            }
        }
        while self.taken.len() > REMEMBERED {
            self.taken.pop_first();
        }
        self.recount();
    }

    /// What became of a version which is waited for, once that is known.
    pub(super) fn outcome(&mut self, version: u64) -> Option<Result<(), StoreError>> {
        match self.refused.remove(&version) {
            Some(error) => Some(Err(error)),
            None => (version <= self.durable).then_some(Ok(())),
        }
    }

    /// Whether the version was refused with one which it was built on.
    pub(super) fn taken(&self, version: u64) -> bool {
        self.taken.contains(&version) || self.refused.contains_key(&version)
    }

    /// Whether a region must go back, and why.
    pub(super) fn broken(&self, origin: u32) -> Option<(u64, StoreError)> {
        let broken = self.broken.get(&origin)?;
        Some((broken.from, broken.error.again()))
    }

    /// The region went back; whether others have to.
    pub(super) fn mended(&mut self, origin: u32) -> bool {
        self.broken.remove(&origin);
        !self.broken.is_empty()
    }

    pub(super) fn any_broken(&self) -> bool {
        !self.broken.is_empty()
    }
}

/// The batch, without saying what these pages were before: it will not have
/// been that.
fn without(batch: Arc<Batch>, pages: &BTreeSet<(u32, u64)>) -> Arc<Batch> {
    let built = |change: &super::frame::Change| pages.contains(&(change.area, change.page));
    if !batch.changes.iter().any(built) {
        return batch;
    }
    let changes = batch.changes.iter().cloned().map(|mut change| {
        if built(&change) {
            (change.before, change.words) = (Before::Unknown, None);
        }
        change
    });
    Arc::new(Batch {
        version: batch.version,
        time: batch.time,
        changes: Arc::new(changes.collect()),
        bulk: batch.bulk.clone(),
    })
}
