// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a program has to process of a transaction, once it is committed: it
//! copies that into a buffer, from which a helper stores or sends it.
//!
//! Page tracking does not know what changed inside a page, so the whole page
//! is copied.  Trackers which emulate stores know each of them: where it went
//! (four bytes) and its value are copied, as often as it was stored.

use std::sync::atomic::{AtomicU64, Ordering};

use hvckpt::{DirtyPages, PAGE_SIZE, Region};

/// Bytes in a word of the buffer.
const WORD: usize = 8;
/// Bytes which say where a store went.
const WHERE: usize = 4;

/// A buffer shared with a helper, which has always read what is overwritten.
#[derive(Debug)]
pub struct Ring {
    words: Vec<AtomicU64>,
    next: usize,
}

impl Default for Ring {
    fn default() -> Self {
        Self::new(256 * PAGE_SIZE / WORD)
    }
}

impl Ring {
    fn new(words: usize) -> Self {
        Self {
            // Not zeroes, for which the allocator would give pages that fault
            // when first used: in the first run of a process alone.
            words: (0..words).map(|_| AtomicU64::new(u64::MAX)).collect(),
            next: 0,
        }
    }

    /// Room for so many words, one after the other.
    fn room(&mut self, words: usize) -> &[AtomicU64] {
        if self.next + words > self.words.len() {
            self.next = 0;
        }
        let start = self.next;
        self.next += words;
        &self.words[start..self.next]
    }

    fn put(&mut self, word: u64) {
        copy(&[AtomicU64::new(word)], self.room(1));
    }

    /// Copies what a list names; the bytes processed.
    pub fn take(&mut self, region: &Region, dirty: &DirtyPages<'_>) -> u64 {
        let memory = region.atomics_u64();
        let Some(written) = dirty.written() else {
            for page in dirty {
                let from = &memory[page * PAGE_SIZE / WORD..][..PAGE_SIZE / WORD];
                copy(from, self.room(PAGE_SIZE / WORD));
            }
            return (dirty.len() * PAGE_SIZE) as u64;
        };
        let mut bytes = 0;
        for store in written {
            let (at, size) = (index(store.offset), store.bytes as usize);
            bytes += (WHERE + size) as u64;
            if size <= WHERE && at % WORD + size <= WORD {
                // Where and the value fit into one word.
                let value = memory[at / WORD].load(Ordering::Relaxed) >> (at % WORD * 8);
                self.put(value << 32 | store.offset);
            } else {
                self.put(store.offset);
                let from = &memory[at / WORD..(at + size).div_ceil(WORD)];
                copy(from, self.room(from.len()));
            }
        }
        bytes
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("64-bit only")
}

fn copy(from: &[AtomicU64], to: &[AtomicU64]) {
    let words = from.iter().zip(to);
    words.for_each(|(from, to)| to.store(from.load(Ordering::Relaxed), Ordering::Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Page faults which this thread has taken.
    fn faults() -> i64 {
        // SAFETY: all zeroes is a valid value; the kernel fills it.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: fills the structure.
        unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
        usage.ru_minflt
    }

    /// Compilers turn zeroes into a cold allocation only where they optimise.
    #[test]
    fn buffers_and_plain_memory_are_warm() {
        let mut ring = Ring::default();
        let before = faults();
        (0..ring.words.len()).for_each(|_| ring.put(1));
        let taken = faults() - before;
        // Swapping and the like may add some; cold, it is one a page.
        assert!(taken < 64, "{taken} page faults in the buffer");
        let memory = crate::memory::plain(256);
        let before = faults();
        let read = |sum: u64, word: &std::sync::atomic::AtomicU32| {
            sum + u64::from(word.fetch_add(1, Ordering::Relaxed))
        };
        assert_eq!(memory.iter().fold(0, read), 0);
        let taken = faults() - before;
        assert!(taken < 64, "{taken} page faults in plain memory");
    }

    #[test]
    fn what_does_not_fit_behind_the_last_begins_anew() {
        let mut ring = Ring::new(10);
        let mut at = |words| {
            let length = ring.room(words).len();
            assert_eq!(length, words);
            ring.next - length
        };
        assert_eq!([at(4), at(4), at(4), at(1)], [0, 4, 0, 4]);
    }
}
