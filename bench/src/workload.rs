// SPDX-License-Identifier: MIT OR Apache-2.0
//! The data structures under a tracker.
//!
//! Every operation is done twice: in plain memory, where writes and pages are
//! counted, and in a region, where it is timed.  So each transaction's list is
//! compared with the pages which were written to, and in the end the two
//! memories with each other.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::cases::{Case, Op, Visit, find};
use crate::clock::{between, mean, reading};
use crate::counts::AREA_PAGES;
use crate::exact::{Lists, differing};
use crate::memory::{Counted, Memory, plain, words};
use crate::processed::Ring;
use crate::structures::Structure;
use crate::trackers;

/// Parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Name of the tracker, or `none`.
    pub tracker: String,
    /// The paper's name of the structure.
    pub structure: String,
    /// The operation.
    pub op: Op,
    /// Operations a transaction (OPT).
    pub opt: u32,
    /// Operations in all.
    pub operations: u32,
    /// Parts which are timed, at equal distances; what lies between them runs
    /// in plain memory only.
    pub windows: u32,
    /// Transactions timed in each part; 0: all, in one part.
    pub length: u32,
    /// Transactions before each part, tracked but not timed.
    #[serde(default)]
    pub warmup: u32,
    /// How often each part is run; the shortest time of a transaction counts.
    pub repeats: u32,
}

/// What came of it.  Times are nanoseconds of one transaction.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Transactions timed.
    pub measured: usize,
    /// Average of the operations and the commit together.
    pub mean_ns: f64,
    /// Of that, the commit.
    pub commit_ns: f64,
    /// Copying what was written to into a buffer, after that.
    pub copy_ns: f64,
    /// Bytes copied a transaction.
    pub processed: f64,
    /// Stores a transaction, among those timed.
    pub writes: f64,
    /// Pages a transaction, among those timed.
    pub pages: f64,
    /// Lists against what was written to.
    #[serde(flatten)]
    pub lists: Lists,
    /// Words of the region which differ from those of the plain memory.
    pub damaged: u64,
}

/// The transactions of one part.
#[derive(Debug, Clone, Copy)]
struct Window {
    first: u32,
    timed: u32,
    end: u32,
}

/// Times of the transactions of a window.
#[derive(Debug, Default)]
struct Times {
    whole: Vec<u64>,
    commit: Vec<u64>,
    copy: Vec<u64>,
}

impl Workload {
    /// Runs it.
    ///
    /// # Errors
    /// Why not.
    pub fn run(&self) -> Result<Outcome, String> {
        let case = find(&self.structure, self.op)
            .ok_or_else(|| format!("Table 2 has no {} of {:?}", self.op, self.structure))?;
        if self.opt == 0 || self.operations < self.opt || self.repeats == 0 || self.windows == 0 {
            return Err("opt, repeats, windows: at least 1; operations: at least opt".to_owned());
        }
        case.with(Runner {
            load: self,
            case,
            clock: reading(),
        })
    }

    fn windows(&self) -> Vec<Window> {
        let total = self.operations / self.opt;
        if self.length == 0 {
            return vec![Window {
                first: 0,
                timed: 0,
                end: total,
            }];
        }
        let size = (self.warmup + self.length).min(total);
        let count = self.windows.min(total / size);
        let slot = total / count;
        (0..count)
            .map(|number| {
                // In the middle of its slot.
                let first = number * slot + (slot - size) / 2;
                Window {
                    first,
                    timed: first + size.min(self.warmup).min(size - 1),
                    end: first + size,
                }
            })
            .collect()
    }
}

struct Runner<'w> {
    load: &'w Workload,
    case: Case,
    /// What reading the clock costs.
    clock: u64,
}

impl Runner<'_> {
    fn transaction<S: Structure, M: Memory + ?Sized>(&self, to: &mut S, memory: &M, number: u32) {
        let first = number * self.load.opt;
        (first..first + self.load.opt)
            .for_each(|index| self.case.operate(to, memory, index, self.load.operations));
    }

    /// Runs a window on a copy of `image`, which must become `wanted`.
    fn timed<S: Structure>(
        &self,
        structure: &S,
        (image, wanted): (&[u32], &[AtomicU32]),
        window: Window,
        expected: &[Vec<u32>],
        outcome: &mut Outcome,
    ) -> Result<Times, String> {
        let (mut structure, clock) = (structure.clone(), self.clock);
        let mut times = Times::default();
        if self.load.tracker == trackers::NONE {
            let memory = plain(AREA_PAGES);
            fill(&memory, image);
            for number in window.first..window.end {
                let start = Instant::now();
                self.transaction(&mut structure, memory.as_slice(), number);
                if number >= window.timed {
                    times.whole.push(between(start, Instant::now(), clock));
                    times.commit.push(0);
                    times.copy.push(0);
                }
            }
            outcome.damaged += differing(&memory, wanted);
            return Ok(times);
        }
        let region = trackers::open(&self.load.tracker, AREA_PAGES)?;
        let memory = words(&region);
        fill(memory, image);
        let explain = |error| hvckpt::explain(&error);
        let mut ring = Ring::default();
        let mut transaction = region.begin().map_err(explain)?;
        for number in window.first..window.end {
            let start = Instant::now();
            self.transaction(&mut structure, memory, number);
            let written = Instant::now();
            let dirty = transaction.commit_and_continue().map_err(explain)?;
            let end = Instant::now();
            let bytes = ring.take(&region, &dirty);
            let copied = Instant::now();
            if number < window.timed {
                continue;
            }
            outcome.processed += bytes as f64;
            times.copy.push(between(end, copied, clock));
            times.whole.push(between(start, end, 2 * clock));
            times.commit.push(between(written, end, clock));
            let want = &expected[(number - window.timed) as usize];
            let want = want.iter().map(|page| *page as usize);
            outcome.lists.add(dirty.to_vec(), want);
        }
        drop(transaction);
        outcome.damaged += differing(memory, wanted);
        Ok(times)
    }
}

/// Makes fresh memory the image.
fn fill(memory: &[AtomicU32], image: &[u32]) {
    (0..).zip(image).for_each(|(at, value)| {
        if *value != 0 {
            memory.store(at, *value);
        }
    });
}

impl Visit for Runner<'_> {
    type Output = Result<Outcome, String>;

    fn visit<S: Structure>(self) -> Self::Output {
        // A session lasts as long as it has a region: one for all windows.
        let _session = match self.load.tracker.as_str() {
            trackers::NONE => None,
            tracker => Some(trackers::open(tracker, 1)?),
        };
        let plain = plain(AREA_PAGES);
        let memory = plain.as_slice();
        let mut structure: S = self.case.prepare(memory, self.load.operations);
        let (mut outcome, mut all) = (Outcome::default(), Times::default());
        let (mut writes, mut pages, mut next) = (0, 0, 0);
        let mut image = vec![0; plain.len()];
        for window in self.load.windows() {
            (next..window.first).for_each(|number| {
                self.transaction(&mut structure, memory, number);
            });
            let before = structure.clone();
            for (kept, word) in image.iter_mut().zip(&plain) {
                *kept = word.load(Ordering::Relaxed);
            }
            (window.first..window.timed).for_each(|number| {
                self.transaction(&mut structure, memory, number);
            });
            let counted = Counted::new(&plain);
            let mut expected = Vec::new();
            for number in window.timed..window.end {
                self.transaction(&mut structure, &counted, number);
                let (stores, dirtied) = counted.take();
                writes += stores;
                pages += dirtied.len() as u64;
                expected.push(dirtied);
            }
            next = window.end;
            let mut best: Option<Times> = None;
            for _ in 0..self.load.repeats {
                let memories = (image.as_slice(), plain.as_slice());
                let times = self.timed(&before, memories, window, &expected, &mut outcome)?;
                best = Some(match best {
                    Some(best) => best.shorter(&times),
                    None => times,
                });
            }
            if let Some(best) = best {
                all.whole.extend(best.whole);
                all.commit.extend(best.commit);
                all.copy.extend(best.copy);
            }
        }
        outcome.measured = all.whole.len();
        outcome.mean_ns = mean(&all.whole);
        outcome.commit_ns = mean(&all.commit);
        outcome.copy_ns = mean(&all.copy);
        let measured = all.whole.len().max(1) as f64;
        outcome.processed /= measured * f64::from(self.load.repeats);
        outcome.writes = writes as f64 / measured;
        outcome.pages = pages as f64 / measured;
        Ok(outcome)
    }
}

impl Times {
    /// Of each transaction the run which nothing interrupted.
    fn shorter(self, other: &Self) -> Self {
        let mut best = Self::default();
        for n in 0..self.whole.len() {
            let run = [&self, other].into_iter().min_by_key(|run| run.whole[n]);
            let run = run.unwrap_or(other);
            best.whole.push(run.whole[n]);
            best.commit.push(run.commit[n]);
            // Interrupted or not, whatever became of the rest.
            best.copy.push(self.copy[n].min(other.copy[n]));
        }
        best
    }
}
