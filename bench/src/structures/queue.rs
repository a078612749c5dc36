// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queue in a circular array.

use super::Structure;
use crate::memory::Memory;
use crate::pool::Pool;

const CAPACITY: u32 = 0;
const FRONT: u32 = 1;
const REAR: u32 = 2;
const SIZE: u32 = 3;
const ARRAY: u32 = 4;
const WORDS: u32 = 5;

/// Queue (`queue`).
#[derive(Debug, Clone)]
pub struct Queue {
    header: u32,
}

impl Queue {
    fn after<M: Memory + ?Sized>(&self, memory: &M, place: u32) -> u32 {
        if place + 1 == memory.load(self.header + CAPACITY) {
            0
        } else {
            place + 1
        }
    }
}

impl Structure for Queue {
    fn build<M: Memory + ?Sized>(memory: &M, mut pool: Pool, capacity: u32) -> Self {
        let header = pool.alloc(memory, WORDS);
        let array = pool.alloc(memory, capacity);
        memory.store(header + CAPACITY, capacity);
        memory.store(header + FRONT, 1 % capacity);
        memory.store(header + REAR, 0);
        memory.store(header + SIZE, 0);
        memory.store(header + ARRAY, array);
        Self { header }
    }

    /// # Panics
    /// If the queue is full.
    fn insert<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) {
        let size = memory.load(self.header + SIZE);
        assert!(size < memory.load(self.header + CAPACITY), "full queue");
        memory.store(self.header + SIZE, size + 1);
        let rear = self.after(memory, memory.load(self.header + REAR));
        memory.store(self.header + REAR, rear);
        memory.store(memory.load(self.header + ARRAY) + rear, key);
    }

    fn delete<M: Memory + ?Sized>(&mut self, memory: &M, _key: u32) -> Option<u32> {
        let size = memory.load(self.header + SIZE).checked_sub(1)?;
        let front = memory.load(self.header + FRONT);
        let key = memory.load(memory.load(self.header + ARRAY) + front);
        memory.store(self.header + SIZE, size);
        memory.store(self.header + FRONT, self.after(memory, front));
        Some(key)
    }

    fn keys<M: Memory + ?Sized>(&self, memory: &M) -> Vec<u32> {
        let mut place = memory.load(self.header + FRONT);
        (0..memory.load(self.header + SIZE))
            .map(|_| {
                let key = memory.load(memory.load(self.header + ARRAY) + place);
                place = self.after(memory, place);
                key
            })
            .collect()
    }
}
