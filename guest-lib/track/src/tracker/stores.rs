// SPDX-License-Identifier: MIT OR Apache-2.0
//! The log of Emulxen: page entries and word entries, taken apart.

use super::Written;
use hvckpt_sys::PAGE_SIZE;
use hvckpt_sys::abi;

/// Stores which the hypervisor logs in one cycle of a range.
pub(super) const MAX_STORES: usize = 2048;

/// Lists made from a log, kept to be filled again without allocating.
#[derive(Debug)]
pub(super) struct Stores {
    /// Dirty pages, each once.
    pub(super) pages: Vec<u64>,
    /// Single writes; of pages with a page entry, the whole page.
    pub(super) written: Vec<Written>,
    /// A bit per page which is in `pages`.
    seen: Vec<u64>,
}

impl Stores {
    pub(super) fn new(pages: usize) -> Self {
        Self {
            pages: Vec::with_capacity(pages.min(MAX_STORES)),
            written: Vec::with_capacity(MAX_STORES),
            seen: vec![0; pages.div_ceil(64)],
        }
    }

    /// Takes `log` apart.  False if it is not such a log.
    pub(super) fn fill(&mut self, log: &[u64]) -> bool {
        self.pages.clear();
        self.written.clear();
        let whole = self.parse(log);
        for page in &self.pages {
            self.seen[usize::try_from(page / 64).unwrap_or(0)] = 0;
        }
        whole
    }

    fn parse(&mut self, log: &[u64]) -> bool {
        let mut units = log.iter();
        while let Some(entry) = units.next() {
            let at = entry & abi::CDA_ENTRY_INDEX;
            let kind = entry >> abi::CDA_ENTRY_KIND_SHIFT & abi::CDA_ENTRY_KIND_MASK;
            let (offset, bytes) = match kind {
                abi::CDA_ENTRY_PAGE => (at * PAGE_SIZE as u64, PAGE_SIZE as u64),
                abi::CDA_ENTRY_WORD if units.next().is_some() => {
                    (at, (entry >> abi::CDA_ENTRY_SIZE_SHIFT & 7) + 1)
                }
                _ => return false,
            };
            let page = offset / PAGE_SIZE as u64;
            let Some(word) = usize::try_from(page / 64)
                .ok()
                .and_then(|word| self.seen.get_mut(word))
            else {
                return false;
            };
            if *word & 1 << (page % 64) == 0 {
                *word |= 1 << (page % 64);
                self.pages.push(page);
            }
            self.written.push(Written {
                offset,
                bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORD: u64 = abi::CDA_ENTRY_WORD << abi::CDA_ENTRY_KIND_SHIFT;

    fn word(offset: u64, bytes: u64) -> u64 {
        offset | WORD | (bytes - 1) << abi::CDA_ENTRY_SIZE_SHIFT
    }

    #[test]
    fn pages_once_and_stores_in_order() {
        let mut stores = Stores::new(200);
        let log = [
            3,
            130,
            word(0x1008, 8),
            7,
            word(0x1ffc, 4),
            9,
            word(3 * 4096, 1),
            5,
        ];
        for _ in 0..2 {
            assert!(stores.fill(&log));
            assert_eq!(stores.pages, [3, 130, 1]);
            let offsets: Vec<_> = stores.written.iter().map(|w| (w.offset, w.bytes)).collect();
            assert_eq!(
                offsets,
                [
                    (3 * 4096, 4096),
                    (130 * 4096, 4096),
                    (0x1008, 8),
                    (0x1ffc, 4),
                    (3 * 4096, 1)
                ]
            );
        }
    }

    #[test]
    fn a_log_which_is_none_is_refused() {
        let mut stores = Stores::new(64);
        assert!(!stores.fill(&[word(8, 8)]), "half an entry");
        assert!(!stores.fill(&[64]), "beyond the region");
        assert!(
            !stores.fill(&[2 << abi::CDA_ENTRY_KIND_SHIFT]),
            "unknown kind"
        );
        assert!(stores.fill(&[63]));
        assert_eq!(stores.pages, [63]);
    }
}
