// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of words of four bytes, addressed by index.
//!
//! The structures reach their memory through [`Memory`] only, so that the
//! same code runs inside a critical data area and below a counter, and every
//! store is counted once.  Words are as wide as those of the paper's guest.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes in a word.
pub const WORD: usize = 4;
/// Words in a page.
pub const PAGE_WORDS: usize = hvckpt::PAGE_SIZE / WORD;

/// Loads and stores of single words.
pub trait Memory {
    /// The word at an index.
    ///
    /// # Panics
    /// Outside of the memory.
    fn load(&self, at: u32) -> u32;

    /// Changes the word at an index, with exactly one store.
    ///
    /// # Panics
    /// Outside of the memory.
    fn store(&self, at: u32, value: u32);

    /// Number of words.
    fn words(&self) -> usize;
}

/// Plain memory.
impl Memory for [AtomicU32] {
    #[inline]
    fn load(&self, at: u32) -> u32 {
        self[at as usize].load(Ordering::Relaxed)
    }

    #[inline]
    fn store(&self, at: u32, value: u32) {
        // Atomic, because a compiler may not merge such stores.
        self[at as usize].store(value, Ordering::Relaxed);
    }

    fn words(&self) -> usize {
        self.len()
    }
}

/// The words of a region.
#[must_use]
pub fn words(region: &hvckpt::Region) -> &[AtomicU32] {
    let start = region.as_ptr().cast::<AtomicU32>();
    // SAFETY: the region is mapped, readable and writable for as long as it is
    // borrowed here; everybody accesses it atomically.
    unsafe { std::slice::from_raw_parts(start, region.bytes() / WORD) }
}

/// Zeroed words outside of any region.  Their pages are present, as those of a
/// region are.
#[must_use]
pub fn plain(pages: usize) -> Vec<AtomicU32> {
    // For zeroes the allocator would give pages which fault when first used.
    let ones = (0..pages * PAGE_WORDS).map(|_| AtomicU32::new(u32::MAX));
    let words: Vec<AtomicU32> = ones.collect();
    words
        .iter()
        .for_each(|word| word.store(0, Ordering::Relaxed));
    words
}

/// Memory which counts the stores to it.
#[derive(Debug)]
pub struct Counted<'m> {
    memory: &'m [AtomicU32],
    writes: Cell<u64>,
    /// Of each page: the transaction which wrote to it last.
    stamps: RefCell<Vec<u32>>,
    transaction: Cell<u32>,
    pages: RefCell<Vec<u32>>,
}

impl<'m> Counted<'m> {
    /// Counts from zero.
    #[must_use]
    pub fn new(memory: &'m [AtomicU32]) -> Self {
        Self {
            memory,
            writes: Cell::new(0),
            stamps: RefCell::new(vec![0; memory.len().div_ceil(PAGE_WORDS)]),
            transaction: Cell::new(1),
            pages: RefCell::default(),
        }
    }

    /// Ends a transaction: stores in it, and the pages stored to, ascending.
    pub fn take(&self) -> (u64, Vec<u32>) {
        self.transaction.set(self.transaction.get() + 1);
        let mut pages = self.pages.take();
        pages.sort_unstable();
        (self.writes.take(), pages)
    }
}

impl Memory for Counted<'_> {
    fn load(&self, at: u32) -> u32 {
        self.memory.load(at)
    }

    fn store(&self, at: u32, value: u32) {
        self.writes.set(self.writes.get() + 1);
        let page = at as usize / PAGE_WORDS;
        let now = self.transaction.get();
        let stamp = &mut self.stamps.borrow_mut()[page];
        if *stamp != now {
            *stamp = now;
            let page = u32::try_from(page).expect("word indices have 32 bits");
            self.pages.borrow_mut().push(page);
        }
        self.memory.store(at, value);
    }

    fn words(&self) -> usize {
        self.memory.len()
    }
}
