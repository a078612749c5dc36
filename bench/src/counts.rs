// SPDX-License-Identifier: MIT OR Apache-2.0
//! Table 2: writes and unique pages of the operations.

use std::collections::BTreeSet;

use crate::cases::{Case, Visit};
use crate::memory::{Counted, PAGE_WORDS, plain};
use crate::structures::Structure;

/// Pages of the area in which a structure lives.
pub const AREA_PAGES: usize = 256;

/// Counted over all transactions of a case.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Counts {
    /// Transactions.
    pub transactions: u64,
    /// Stores.
    pub writes: u64,
    /// Pages stored to, each once a transaction.
    pub pages: u64,
    /// Pages which the structure took in all.
    pub footprint: u64,
}

impl Counts {
    /// Writes and pages a transaction.
    #[must_use]
    pub fn averages(&self) -> (f64, f64) {
        let per = |sum: u64| sum as f64 / self.transactions.max(1) as f64;
        (per(self.writes), per(self.pages))
    }
}

struct Count {
    case: Case,
    operations: u32,
    per_transaction: u32,
}

impl Visit for Count {
    type Output = Counts;

    fn visit<S: Structure>(self) -> Counts {
        let words = plain(AREA_PAGES);
        let memory = Counted::new(&words);
        let mut structure: S = self.case.prepare(&memory, self.operations);
        let (_, prepared) = memory.take();
        let mut footprint: BTreeSet<u32> = prepared.into_iter().collect();
        let mut counts = Counts::default();
        let mut index = 0;
        while index < self.operations {
            let end = (index + self.per_transaction).min(self.operations);
            for operation in index..end {
                self.case
                    .operate(&mut structure, &memory, operation, self.operations);
            }
            index = end;
            let (writes, pages) = memory.take();
            counts.transactions += 1;
            counts.writes += writes;
            counts.pages += pages.len() as u64;
            footprint.extend(pages);
        }
        counts.footprint = footprint.len() as u64;
        counts
    }
}

/// Runs a case outside of any region and counts.
///
/// # Panics
/// If the operations do not fit into [`AREA_PAGES`].
#[must_use]
pub fn count(case: Case, operations: u32, per_transaction: u32) -> Counts {
    case.with(Count {
        case,
        operations,
        per_transaction: per_transaction.max(1),
    })
}

const _: () = assert!(AREA_PAGES * PAGE_WORDS < u32::MAX as usize);
