// SPDX-License-Identifier: MIT OR Apache-2.0
//! The log of single writes: lock-free, of fixed size.
//!
//! Two buffers and one word which says which is in use and how much of it.
//! A handler takes the next place and fills it; a cycle turns to the other
//! buffer and reads.  A handler which was slow may fill its place after it
//! was read: its entry then shows up in a later list, where it does no harm,
//! and its page is in the lists meanwhile (`pages::WRITER`).
//!
//! There are no values in it: racing stores to one word need not be logged in
//! the order in which they happened, so what counts is in memory.

use std::sync::atomic::{AtomicU64, Ordering};

/// A write: where in the region, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// First byte, counted from the start of the region.
    pub offset: u64,
    /// Bytes.  A whole page means that not every write to it is known.
    pub bytes: u32,
}

/// Set if the second buffer is in use; the other bits count places taken.
const SECOND: u64 = 1 << 63;
/// Bits of an entry for the size, which is a page at most.
const SIZE_BITS: u32 = 13;

/// The log; see the module.
#[derive(Debug)]
pub(super) struct Words {
    head: AtomicU64,
    buffers: [Box<[AtomicU64]>; 2],
}

impl Words {
    /// Room for `capacity` writes a cycle.
    pub(super) fn new(capacity: usize) -> Self {
        let buffer = || (0..capacity).map(|_| AtomicU64::new(0)).collect();
        Self {
            head: AtomicU64::new(0),
            buffers: [buffer(), buffer()],
        }
    }

    /// Logs a write of 1 to 4096 bytes.  async-signal-safe.
    pub(super) fn push(&self, offset: usize, bytes: u16) {
        let entry = (offset as u64) << SIZE_BITS | u64::from(bytes);
        loop {
            let head = self.head.fetch_add(1, Ordering::SeqCst);
            let buffer = &self.buffers[usize::from(head & SECOND != 0)];
            let Some(place) = place(head).and_then(|at| buffer.get(at)) else {
                // Full, and the count says so.
                return;
            };
            // Somebody slow may have filled it.
            if place
                .compare_exchange(0, entry, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
            {
                return;
            }
        }
    }

    /// Appends the writes and forgets them; false if there were more.
    pub(super) fn take(&self, list: &mut Vec<Written>) -> bool {
        let now = self.head.load(Ordering::SeqCst);
        let head = self.head.swap((now ^ SECOND) & SECOND, Ordering::SeqCst);
        self.read(head, list, |place| place.swap(0, Ordering::SeqCst))
    }

    /// The same, forgetting nothing.
    pub(super) fn peek(&self, list: &mut Vec<Written>) -> bool {
        let head = self.head.load(Ordering::SeqCst);
        self.read(head, list, |place| place.load(Ordering::SeqCst))
    }

    fn read(&self, head: u64, list: &mut Vec<Written>, get: impl Fn(&AtomicU64) -> u64) -> bool {
        let buffer = &self.buffers[usize::from(head & SECOND != 0)];
        let taken = place(head).unwrap_or(usize::MAX);
        #[allow(clippy::cast_possible_truncation)] // thirteen bits
        let write = |entry: u64| Written {
            offset: entry >> SIZE_BITS,
            bytes: (entry & ((1 << SIZE_BITS) - 1)) as u32,
        };
        let entries = buffer.iter().take(taken).map(get);
        list.extend(entries.filter(|&entry| entry != 0).map(write));
        taken <= buffer.len()
    }
}

/// async-signal-safe.
fn place(head: u64) -> Option<usize> {
    usize::try_from(head & !SECOND).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(words: &Words) -> (Vec<(u64, u32)>, bool) {
        let mut list = Vec::new();
        let complete = words.take(&mut list);
        (list.iter().map(|w| (w.offset, w.bytes)).collect(), complete)
    }

    #[test]
    fn keeps_order_and_forgets_what_was_taken() {
        let words = Words::new(3);
        words.push(8, 4);
        words.push(0, 4096);
        assert_eq!(taken(&words), (vec![(8, 4), (0, 4096)], true));
        assert_eq!(taken(&words), (vec![], true));
        words.push((1 << 44) - 1, 1);
        assert_eq!(taken(&words), (vec![((1 << 44) - 1, 1)], true));
    }

    #[test]
    fn says_when_it_was_full() {
        let words = Words::new(2);
        for round in 0..5 {
            (0..2).for_each(|at| words.push(at, 1));
            assert!(taken(&words).1, "round {round}");
            (0..3).for_each(|at| words.push(at, 1));
            assert!(!taken(&words).1, "round {round}");
        }
    }

    #[test]
    fn a_late_entry_displaces_nobody() {
        let words = Words::new(4);
        words.push(1, 1);
        taken(&words);
        // Somebody who took place 0 of the first buffer fills it now.
        words.buffers[0][0].store(99 << SIZE_BITS | 1, Ordering::SeqCst);
        taken(&words);
        words.push(2, 1);
        assert_eq!(taken(&words), (vec![(99, 1), (2, 1)], true));
    }

    #[test]
    fn threads_lose_nothing() {
        const EACH: usize = 20_000;
        let words = Words::new(3 * EACH);
        let mut seen = vec![0_u32; 3 * EACH];
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..3)
                .map(|thread| {
                    let words = &words;
                    scope.spawn(move || {
                        (0..EACH).for_each(|at| words.push(thread * EACH + at, 1));
                    })
                })
                .collect();
            let mut list = Vec::new();
            while !writers.iter().all(|writer| writer.is_finished()) {
                assert!(words.take(&mut list));
            }
            // Both buffers: late entries lie in the other.
            words.take(&mut list);
            words.buffers.iter().flatten().for_each(|place| {
                let entry = place.swap(0, Ordering::SeqCst);
                if entry != 0 {
                    list.push(Written {
                        offset: entry >> SIZE_BITS,
                        bytes: 1,
                    });
                }
            });
            for written in list {
                seen[usize::try_from(written.offset).unwrap()] += 1;
            }
        });
        assert!(seen.iter().all(|&count| count == 1));
    }
}
