// SPDX-License-Identifier: MIT OR Apache-2.0
//! Binary heap in an array.

use super::Structure;
use crate::memory::Memory;
use crate::pool::Pool;

// The header: number of keys, and where the array is.
const SIZE: u32 = 0;
const ARRAY: u32 = 1;
const WORDS: u32 = 2;

/// Binary heap (`heap`).
#[derive(Debug, Clone)]
pub struct BinaryHeap {
    header: u32,
}

impl Structure for BinaryHeap {
    fn build<M: Memory + ?Sized>(memory: &M, mut pool: Pool, capacity: u32) -> Self {
        let header = pool.alloc(memory, WORDS);
        // Below the first place stands what no key is smaller than.
        let array = pool.alloc(memory, capacity + 1);
        memory.store(array, 0);
        memory.store(header + SIZE, 0);
        memory.store(header + ARRAY, array);
        Self { header }
    }

    fn insert<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) {
        let array = memory.load(self.header + ARRAY);
        let mut place = memory.load(self.header + SIZE) + 1;
        memory.store(self.header + SIZE, place);
        while memory.load(array + place / 2) > key {
            memory.store(array + place, memory.load(array + place / 2));
            place /= 2;
        }
        memory.store(array + place, key);
    }

    fn delete<M: Memory + ?Sized>(&mut self, memory: &M, _key: u32) -> Option<u32> {
        let array = memory.load(self.header + ARRAY);
        let size = memory.load(self.header + SIZE).checked_sub(1)?;
        let least = memory.load(array + 1);
        let last = memory.load(array + size + 1);
        memory.store(self.header + SIZE, size);
        let mut place = 1;
        loop {
            let mut child = place * 2;
            if child > size {
                break;
            }
            if child < size && memory.load(array + child + 1) < memory.load(array + child) {
                child += 1;
            }
            if memory.load(array + child) >= last {
                break;
            }
            memory.store(array + place, memory.load(array + child));
            place = child;
        }
        memory.store(array + place, last);
        Some(least)
    }

    fn keys<M: Memory + ?Sized>(&self, memory: &M) -> Vec<u32> {
        let array = memory.load(self.header + ARRAY);
        let size = memory.load(self.header + SIZE);
        let key = |place: u32| memory.load(array + place);
        (1..=size)
            .inspect(|place| assert!(key(place / 2) <= key(*place), "heap order"))
            .map(key)
            .collect()
    }
}
