// SPDX-License-Identifier: MIT OR Apache-2.0
//! The microbenchmark, with the paper's parameters.

use std::time::Instant;

use hvckpt::CycleError;
use serde::{Deserialize, Serialize};

use crate::clock::{between, mean, median, reading, spread};
use crate::exact::Lists;
use crate::memory::{Memory, PAGE_WORDS, words};
use crate::trackers::{self, Traps};

/// Which pages a transaction writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Pages at equal distances, the same in every transaction.
    #[default]
    Spread,
    /// The first pages, in every transaction.
    Contiguous,
    /// Neighbours, others in every transaction.
    Rotate,
}

/// Parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Micro {
    /// Name of the tracker.
    pub tracker: String,
    /// Pages of the critical data area.
    pub pages: usize,
    /// Pages written to in each transaction (PPT); 0: what a transaction costs
    /// by itself.
    pub ppt: usize,
    /// Writes to each of them (WPP).
    pub wpp: usize,
    /// Which pages.
    #[serde(default)]
    pub pattern: Pattern,
    /// Transactions measured (Tcount).
    pub transactions: usize,
    /// Transactions before.
    #[serde(default)]
    pub warmup: usize,
    /// Stop after so many milliseconds, but not before ten transactions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_ms: Option<u64>,
}

/// What came of it.  Times are nanoseconds of one transaction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Transactions measured.
    pub measured: usize,
    /// Median of writing and committing together.
    pub median_ns: u64,
    /// Average of the same, with what interrupted.
    pub mean_ns: f64,
    /// Median of writing.
    pub write_ns: u64,
    /// Median of committing.
    pub commit_ns: u64,
    /// How far apart the quarters of the times of writing lie.
    pub write_spread_ns: u64,
    /// The same of committing.
    pub commit_spread_ns: u64,
    /// What reading the clock costs; taken off all the above.
    pub clock_ns: u64,
    /// Lists against what was written to.
    #[serde(flatten)]
    pub lists: Lists,
    /// Events in all measured transactions.
    pub traps: Traps,
}

impl Micro {
    fn check(&self) -> Result<(), String> {
        if self.ppt > self.pages {
            return Err(format!("ppt must be 0 to {}, not {}", self.pages, self.ppt));
        }
        if self.wpp == 0 || self.wpp > PAGE_WORDS {
            return Err(format!("wpp must be 1 to {PAGE_WORDS}, not {}", self.wpp));
        }
        if self.transactions == 0 {
            return Err("transactions must be at least 1".to_owned());
        }
        if u32::try_from(self.pages.saturating_mul(PAGE_WORDS)).is_err() {
            return Err(format!(
                "pages must be below {}",
                u32::MAX as usize / PAGE_WORDS
            ));
        }
        Ok(())
    }

    fn page(&self, transaction: usize, index: usize) -> usize {
        match self.pattern {
            Pattern::Contiguous => index,
            Pattern::Spread => index * (self.pages / self.ppt),
            Pattern::Rotate => (transaction * self.ppt + index) % self.pages,
        }
    }

    /// First word of a page.  `check` saw to it that it can be named.
    #[allow(clippy::cast_possible_truncation)]
    fn word(&self, transaction: usize, index: usize) -> u32 {
        (self.page(transaction, index) * PAGE_WORDS) as u32
    }

    #[allow(clippy::cast_possible_truncation)] // any value will do
    fn write<M: Memory + ?Sized>(&self, memory: &M, transaction: usize) {
        for index in 0..self.ppt {
            let word = self.word(transaction, index);
            for offset in 0..self.wpp as u32 {
                memory.store(word + offset, transaction as u32);
            }
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// Why not.
    pub fn run(&self) -> Result<Outcome, String> {
        self.check()?;
        let region = trackers::open(&self.tracker, self.pages)?;
        self.cycles(&region)
            .map_err(|error| hvckpt::explain(&error))
    }

    fn cycles(&self, region: &hvckpt::Region) -> Result<Outcome, CycleError> {
        let memory = words(region);
        let clock = reading();
        let (mut write, mut commit, mut both) = (Vec::new(), Vec::new(), Vec::new());
        let mut lists = Lists::default();
        let mut transaction = region.begin()?;
        for number in 0..self.warmup {
            self.write(memory, number);
            transaction.commit_and_continue()?;
        }
        let (before, begun) = (region.counters(), Instant::now());
        for number in self.warmup..self.warmup + self.transactions {
            let start = Instant::now();
            self.write(memory, number);
            let written = Instant::now();
            let dirty = transaction.commit_and_continue()?;
            let end = Instant::now();
            write.push(between(start, written, clock));
            commit.push(between(written, end, clock));
            both.push(between(start, end, 2 * clock));
            let written_to = (0..self.ppt).map(|index| self.page(number, index));
            lists.add(dirty.to_vec(), written_to);
            let spent = begun.elapsed().as_millis();
            let over = |budget| spent >= u128::from(budget);
            if write.len() >= 10 && self.budget_ms.is_some_and(over) {
                break;
            }
        }
        Ok(Outcome {
            measured: both.len(),
            median_ns: median(&both),
            mean_ns: mean(&both),
            write_ns: median(&write),
            commit_ns: median(&commit),
            write_spread_ns: spread(&write),
            commit_spread_ns: spread(&commit),
            clock_ns: clock,
            lists,
            traps: trackers::traps(before, region.counters()),
        })
    }
}
