// SPDX-License-Identifier: MIT OR Apache-2.0
//! A program which knows nothing of trackers: an unmodified `hashbrown` map
//! of byte strings in an arena, each update a transaction that an abort would
//! undo.

use std::hash::{BuildHasherDefault, DefaultHasher};
use std::path::PathBuf;
use std::time::Instant;

use allocator_api2::vec::Vec as ArenaVec;
use hashbrown::HashMap;
use hvckpt::arena::{Arena, ArenaRoot, Heap, UpdateError};
use hvckpt::store::{Durability, Durable};
use hvckpt::{LockPolicy, TrackerKind};
use serde::{Deserialize, Serialize};

use crate::clock::{between, mean, median, reading};
use crate::trackers;

/// Parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Name of the tracker.
    pub tracker: String,
    /// Pages of the area.
    pub pages: usize,
    /// Keys in the map.
    pub keys: u32,
    /// Values set in each update.
    pub operations: u32,
    /// Updates measured.
    pub transactions: u32,
}

/// What came of it.  Times are nanoseconds of one update.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Updates measured.
    pub measured: usize,
    /// Median.
    pub median_ns: u64,
    /// Average.
    pub mean_ns: f64,
    /// Values which are not what was set last, after all updates and an abort.
    pub damaged: u64,
}

/// Its state is part of the type: a recovered map finds its keys.
type Hasher = BuildHasherDefault<DefaultHasher>;

struct Sessions {
    map: HashMap<u32, ArenaVec<u8, Heap>, Hasher, Heap>,
    heap: Heap,
}

// SAFETY: everything in it is allocated in the arena; the map is made with a
// capacity; its hasher has no state; nothing is kept outside.
unsafe impl ArenaRoot for Sessions {
    const TAG: u64 = 1;
}

impl Sessions {
    /// Says so if the area is full, which must not end the process.
    fn set(&mut self, key: u32, round: u32) -> Result<(), String> {
        let text = value(key, round);
        let mut bytes = ArenaVec::new_in(self.heap);
        bytes.try_reserve_exact(text.len()).map_err(|_| full())?;
        bytes.extend_from_slice(&text);
        self.map.try_reserve(1).map_err(|_| full())?;
        self.map.insert(key, bytes);
        Ok(())
    }
}

fn full() -> String {
    "the area is too small for so many keys".to_owned()
}

fn explain(error: &UpdateError<String>) -> String {
    match error {
        UpdateError::Refused(why) => why.clone(),
        UpdateError::Durable(error) => hvckpt::explain(error),
    }
}

/// The value of a key after a round: 20 to 147 bytes.
fn value(key: u32, round: u32) -> Vec<u8> {
    let length = 20 + (key.wrapping_mul(37).wrapping_add(round.wrapping_mul(11)) % 128) as usize;
    let word = (u64::from(key) << 32 | u64::from(round)).to_le_bytes();
    word.iter().copied().cycle().take(length).collect()
}

/// A directory which goes when the run ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // It lies in the system's directory for such things.
        let _left = std::fs::remove_dir_all(&self.0);
    }
}

impl Program {
    /// Runs it.
    ///
    /// # Errors
    /// Why not.
    pub fn run(&self) -> Result<Outcome, String> {
        if self.keys == 0 || self.transactions == 0 {
            return Err("keys and transactions must be at least 1".to_owned());
        }
        let kind: TrackerKind = self
            .tracker
            .parse()
            .map_err(|error: hvckpt::UnknownTracker| error.to_string())?;
        // The durable region shares its session, and need not wait its turn.
        let _session = trackers::open(&self.tracker, 1)?;
        let name = format!("hvckpt-bench-{}-{kind}", std::process::id());
        let scratch = Scratch(std::env::temp_dir().join(name));
        let durable = Durable::builder("sessions")
            .pages(self.pages)
            .tracker(kind)
            .lock(LockPolicy::IfAllowed)
            .open(&scratch.0)
            .map_err(|error| hvckpt::explain(&error))?;
        let arena = Arena::open(durable, |heap| Sessions {
            map: HashMap::with_capacity_and_hasher_in(8, Hasher::new(), heap),
            heap,
        })
        .map_err(|error| hvckpt::explain(&error))?;
        self.updates(&arena)
    }

    fn updates(&self, arena: &Arena<Sessions>) -> Result<Outcome, String> {
        let memory = Durability::Memory;
        let mut rounds = vec![0; self.keys as usize];
        let filled = arena.update(memory, |sessions| {
            (0..self.keys).try_for_each(|key| sessions.set(key, 0))
        });
        filled.map_err(|error| explain(&error))?;
        let (clock, mut times, mut next) = (reading(), Vec::new(), 0_u32);
        for round in 1..=self.transactions {
            let start = Instant::now();
            let updated = arena.update(memory, |sessions| {
                for _ in 0..self.operations {
                    // All keys in turn, far from each other.
                    next = (next + 7919) % self.keys;
                    sessions.set(next, round)?;
                    rounds[next as usize] = round;
                }
                Ok(())
            });
            updated.map_err(|error| explain(&error))?;
            times.push(between(start, Instant::now(), clock));
        }
        let refused = arena.update(memory, |sessions| {
            sessions.map.clear();
            Err::<(), _>("no")
        });
        let kept = u64::from(refused.is_ok());
        let wrong = arena.read(|sessions| {
            let right = |key: &u32| {
                let want = value(*key, rounds[*key as usize]);
                sessions.map.get(key).is_some_and(|got| got[..] == want)
            };
            (0..self.keys).filter(|key| !right(key)).count() as u64
        });
        Ok(Outcome {
            measured: times.len(),
            median_ns: median(&times),
            mean_ns: mean(&times),
            damaged: wrong + kept,
        })
    }
}
