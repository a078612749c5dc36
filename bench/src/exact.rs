// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether lists and memory are what they must be.

use std::sync::atomic::{AtomicU32, Ordering};

/// Lists of dirty pages against the pages written to, summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Lists {
    /// Pages written to, each once a transaction.
    pub expected: u64,
    /// Of those, the ones no list named.
    pub missed: u64,
    /// Pages which lists named needlessly, or twice.
    pub excess: u64,
}

impl Lists {
    /// Adds a transaction: what its list names, and the pages written to,
    /// each once.
    pub fn add(&mut self, mut listed: Vec<usize>, written: impl IntoIterator<Item = usize>) {
        listed.sort_unstable();
        let (mut written_to, mut found) = (0, 0);
        for page in written {
            written_to += 1;
            found += u64::from(listed.binary_search(&page).is_ok());
        }
        self.expected += written_to;
        self.missed += written_to - found;
        self.excess += listed.len() as u64 - found;
    }
}

/// Words in which two memories of the same size differ.
#[must_use]
pub fn differing(one: &[AtomicU32], two: &[AtomicU32]) -> u64 {
    assert_eq!(one.len(), two.len(), "memories of the same size");
    let load = |word: &AtomicU32| word.load(Ordering::Relaxed);
    let differ = |(a, b): &(&AtomicU32, &AtomicU32)| load(a) != load(b);
    one.iter().zip(two).filter(differ).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_compared() {
        let mut lists = Lists::default();
        lists.add(vec![5, 1, 3], [1, 3, 5]);
        assert_eq!((lists.expected, lists.missed, lists.excess), (3, 0, 0));
        lists.add(vec![2, 9], [1, 2]);
        assert_eq!((lists.expected, lists.missed, lists.excess), (5, 1, 1));
        lists.add(vec![7, 7], [7]);
        assert_eq!((lists.expected, lists.missed, lists.excess), (6, 1, 2));
    }

    #[test]
    fn memories_are_compared() {
        let words = |values: [u32; 3]| values.map(AtomicU32::new);
        assert_eq!(differing(&words([1, 2, 3]), &words([1, 0, 4])), 2);
        assert_eq!(differing(&[], &[]), 0);
    }
}
