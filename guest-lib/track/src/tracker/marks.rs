// SPDX-License-Identifier: MIT OR Apache-2.0
//! A set of pages to which handlers add and from which a cycle takes.

use std::sync::atomic::{AtomicU64, Ordering};

const BITS: usize = 64;

/// A bit per page, and a bit per word of them which is not zero: taking costs
/// O(marked), not O(pages) (per 4096 pages, one word).
#[derive(Debug)]
pub(super) struct Marks {
    words: Box<[AtomicU64]>,
    summary: Box<[AtomicU64]>,
}

impl Marks {
    /// An empty set of pages below `pages`.
    pub(super) fn new(pages: usize) -> Self {
        let zeroes = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        let words = pages.div_ceil(BITS);
        Self {
            words: zeroes(words),
            summary: zeroes(words.div_ceil(BITS)),
        }
    }

    /// Adds a page.  async-signal-safe.
    pub(super) fn mark(&self, page: usize) {
        let word = page / BITS;
        if let (Some(bits), Some(summary)) = (self.words.get(word), self.summary.get(word / BITS)) {
            bits.fetch_or(1 << (page % BITS), Ordering::SeqCst);
            summary.fetch_or(1 << (word % BITS), Ordering::SeqCst);
        }
    }

    /// Appends the pages in order, and forgets them if `take`.
    pub(super) fn collect(&self, take: bool, list: &mut Vec<u64>) {
        let read = |bits: &AtomicU64| {
            if take {
                bits.swap(0, Ordering::SeqCst)
            } else {
                bits.load(Ordering::SeqCst)
            }
        };
        for (index, summary) in self.summary.iter().enumerate() {
            for word in ones(read(summary)).map(|bit| index * BITS + bit) {
                list.extend(ones(read(&self.words[word])).map(|bit| (word * BITS + bit) as u64));
            }
        }
    }
}

fn ones(mut bits: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        (bits != 0).then(|| {
            let bit = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            bit
        })
    })
}
