// SPDX-License-Identifier: MIT OR Apache-2.0
//! The keys and their values, all of them in a critical data area.

use std::hash::{Hash, Hasher, RandomState};

use allocator_api2::vec::Vec as HeapVec;
use hashbrown::{Equivalent, HashMap};
use hvckpt::arena::{ArenaRoot, Heap};

use super::resp::{LONGEST, Replies, integer};

type Bytes = HeapVec<u8, Heap>;

/// What the area holds.
pub struct Db {
    map: HashMap<Bytes, Bytes, RandomState, Heap>,
    heap: Heap,
}

// SAFETY: map and vectors are allocated in the arena, the map is never without
// capacity, the hasher has its state in itself, and no part leaves.
#[allow(unsafe_code)]
unsafe impl ArenaRoot for Db {
    const TAG: u64 = 0x6b76_0001;
}

/// A key which is looked for, outside of the area.
struct Wanted<'k>(&'k [u8]);

impl Hash for Wanted<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Equivalent<Bytes> for Wanted<'_> {
    fn equivalent(&self, key: &Bytes) -> bool {
        self.0 == &key[..]
    }
}

/// The area is full: the turn is given up.
#[derive(Debug, thiserror::Error)]
#[error("OOM the area is full; start the server with more --pages")]
pub struct Full;

const NUMBER: &str = "ERR value is not an integer or out of range";

/// As one reply, if there is not too much of it.
fn many<'v>(values: impl Iterator<Item = Option<&'v [u8]>> + Clone, out: &mut Replies) {
    let bytes = |value: Option<&[u8]>| value.map_or(0, <[u8]>::len) + 16;
    let (count, size) = values.clone().fold((0, 0_usize), |(count, size), value| {
        (count + 1, size.saturating_add(bytes(value)))
    });
    if size > LONGEST {
        return out.error("ERR the reply is too long");
    }
    out.array(count);
    values.for_each(|value| out.bulk(value));
}

impl Db {
    pub fn new(heap: Heap) -> Self {
        let map = HashMap::with_capacity_and_hasher_in(64, RandomState::new(), heap);
        Self { map, heap }
    }

    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.map.get(&Wanted(key)).map(|value| &value[..])
    }

    fn bytes(&self, from: &[u8]) -> Result<Bytes, Full> {
        let mut bytes = HeapVec::new_in(self.heap);
        bytes.try_reserve_exact(from.len()).map_err(|_| Full)?;
        bytes.extend_from_slice(from);
        Ok(bytes)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Full> {
        let value = self.bytes(value)?;
        if let Some(old) = self.map.get_mut(&Wanted(key)) {
            *old = value;
            return Ok(());
        }
        let key = self.bytes(key)?;
        self.map.try_reserve(1).map_err(|_| Full)?;
        self.map.insert(key, value);
        Ok(())
    }

    fn add(&mut self, key: &[u8], by: Option<i64>, out: &mut Replies) -> Result<(), Full> {
        let old = self.get(key).map_or(Some(0), integer);
        match old.zip(by).and_then(|(old, by)| old.checked_add(by)) {
            Some(new) => {
                self.set(key, new.to_string().as_bytes())?;
                out.integer(new);
            }
            None => out.error(NUMBER),
        }
        Ok(())
    }

    /// Executes a command which changes nothing; false if it is none.
    pub fn read(&self, name: &str, args: &[Vec<u8>], out: &mut Replies) -> bool {
        match (name, args) {
            ("GET", [key]) => out.bulk(self.get(key)),
            ("EXISTS", [_, ..]) => {
                out.count(args.iter().filter(|key| self.get(key).is_some()).count());
            }
            ("MGET", [_, ..]) => many(args.iter().map(|key| self.get(key)), out),
            ("KEYS", [all]) if all == b"*" => many(self.map.keys().map(|key| Some(&key[..])), out),
            ("DBSIZE", []) => out.count(self.map.len()),
            _ => return false,
        }
        true
    }

    /// Executes a command which changes something; false if it is none.
    pub fn write(&mut self, name: &str, args: &[Vec<u8>], out: &mut Replies) -> Result<bool, Full> {
        match (name, args) {
            ("SET", [key, value]) => {
                self.set(key, value)?;
                out.simple("OK");
            }
            ("DEL", [_, ..]) => {
                let gone = args.iter().map(|key| self.map.remove(&Wanted(key)));
                out.count(gone.flatten().count());
            }
            ("INCR", [key]) => self.add(key, Some(1), out)?,
            ("DECR", [key]) => self.add(key, Some(-1), out)?,
            ("INCRBY", [key, by]) => self.add(key, integer(by), out)?,
            ("MSET", [_, ..]) if args.len().is_multiple_of(2) => {
                for pair in args.chunks(2) {
                    self.set(&pair[0], &pair[1])?;
                }
                out.simple("OK");
            }
            ("FLUSHALL" | "FLUSHDB", _) => {
                self.map.clear();
                out.simple("OK");
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}
