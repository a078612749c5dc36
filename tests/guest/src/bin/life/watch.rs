// SPDX-License-Identifier: MIT OR Apache-2.0
//! A region, what it must hold, and which pages must be listed.

use std::sync::atomic::Ordering;

use hvckpt::{DirtyPages, PAGE_SIZE, Region};

use super::{Outcome, fail};
use hvckpt_guest_tests::Rng;

const WORDS: usize = PAGE_SIZE / 8;
/// Writes between two lists.
const WRITES: usize = 40;

/// Allocates nothing after [`Self::new`].
#[derive(Debug)]
pub struct Watch {
    region: &'static Region,
    model: Vec<u64>,
    changed: Vec<bool>,
    /// Pages which the kernel may drop.
    loose: Vec<bool>,
    listed: Vec<bool>,
    totals: (usize, usize),
}

impl Watch {
    /// The region lives as long as the process, unless [`Drop`] takes it back.
    pub fn new(region: Region) -> Self {
        let region: &'static Region = Box::leak(Box::new(region));
        let words = region.atomics_u64();
        // All pages are there from the beginning.
        for (index, word) in words.iter().enumerate() {
            word.store(
                (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
                Ordering::Relaxed,
            );
        }
        Self {
            region,
            model: words
                .iter()
                .map(|word| word.load(Ordering::Relaxed))
                .collect(),
            changed: vec![false; region.pages()],
            loose: vec![false; region.pages()],
            listed: vec![false; region.pages()],
            totals: (0, 0),
        }
    }

    pub fn region(&self) -> &'static Region {
        self.region
    }

    /// Stores one word, in the memory and in the model.
    pub fn store(&mut self, at: usize, value: u64) {
        self.region.atomics_u64()[at].store(value, Ordering::Relaxed);
        self.changed[at / WORDS] |= self.model[at] != value;
        self.model[at] = value;
        self.loose[at / WORDS] = false;
    }

    /// Some random words.
    pub fn write(&mut self, rng: &mut Rng) {
        for _ in 0..WRITES {
            self.store(rng.below(self.model.len()), rng.draw());
        }
    }

    /// Makes some pages all alike: zero.
    pub fn make_alike(&mut self, rng: &mut Rng) {
        for _ in 0..4 {
            let page = rng.below(self.changed.len());
            for word in page * WORDS..(page + 1) * WORDS {
                self.store(word, 0);
            }
        }
    }

    /// The kernel may drop the page from now on, until it is written to.
    pub fn let_go(&mut self, page: usize) {
        self.loose[page] = true;
    }

    /// How many pages the kernel has dropped since the last look.
    pub fn gone(&mut self) -> u64 {
        let mut gone = 0;
        for page in 0..self.loose.len() {
            let words = page * WORDS..(page + 1) * WORDS;
            let memory = &self.region.atomics_u64()[words.clone()];
            let model = &mut self.model[words];
            if self.loose[page]
                && memory.iter().all(|word| word.load(Ordering::Relaxed) == 0)
                && model.iter().any(|&word| word != 0)
            {
                model.fill(0);
                gone += 1;
            }
        }
        gone
    }

    /// Stores a word somewhere in a page.
    pub fn write_to(&mut self, page: usize, rng: &mut Rng) {
        self.store(page * WORDS + rng.below(WORDS), rng.draw());
    }

    /// Whether the memory holds what was stored.
    pub fn compare(&self) {
        for (index, (word, want)) in self
            .region
            .atomics_u64()
            .iter()
            .zip(&self.model)
            .enumerate()
        {
            let got = word.load(Ordering::Relaxed);
            if got != *want {
                fail(&format!(
                    "word {index} (page {}) is {got:#x}, not {want:#x}",
                    index / WORDS
                ));
            }
        }
    }

    /// Compares the memory with the model and the list with the changes.
    pub fn judge(&mut self, list: &DirtyPages<'_>) {
        self.listed.fill(false);
        for page in list.iter() {
            self.listed[page] = true;
        }
        self.compare();
        for (page, changed) in self.changed.iter_mut().enumerate() {
            if *changed && !self.listed[page] && !list.lost() {
                fail(&format!("page {page} has changed and is not in the list"));
            }
            self.totals.0 += usize::from(*changed);
            *changed = false;
        }
        self.totals.1 += list.len();
    }

    /// There will be no list for what was written last.
    pub fn forget_list(&mut self) {
        self.changed.fill(false);
    }

    pub fn outcome(&self) -> Outcome {
        Outcome {
            changed: self.totals.0,
            reported: self.totals.1,
            ..Outcome::default()
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: leaked by `new`; the transactions and lists, which borrow
        // it, ended before their watch.
        drop(unsafe { Box::from_raw(std::ptr::from_ref(self.region).cast_mut()) });
    }
}
