// SPDX-License-Identifier: MIT OR Apache-2.0
//! Deterministic 1-2-3 skip list (Munro, Papadakis and Sedgewick 1992), with
//! top-down insertion.

use super::Structure;
use crate::memory::Memory;
use crate::pool::Pool;

const KEY: u32 = 0;
const RIGHT: u32 = 1;
const DOWN: u32 = 2;
const WORDS: u32 = 3;

/// Key of the headers' columns; beyond it only the tail's.
const LAST: u32 = u32::MAX;

/// Deterministic skip list (`dsl`).
#[derive(Debug, Clone)]
pub struct SkipList {
    pool: Pool,
    /// Word which names the top of the header column.
    top: u32,
    /// Below the lowest level; refers to itself.
    bottom: u32,
    /// At the end of every level; refers to itself.
    tail: u32,
}

impl SkipList {
    /// The node after the next gap but one on the level below: the end of a
    /// gap of two.
    fn far<M: Memory + ?Sized>(memory: &M, node: u32) -> u32 {
        let below = memory.load(node + DOWN);
        memory.load(memory.load(below + RIGHT) + RIGHT)
    }
}

impl Structure for SkipList {
    fn build<M: Memory + ?Sized>(memory: &M, mut pool: Pool, _capacity: u32) -> Self {
        let top = pool.alloc(memory, 1);
        let [bottom, tail, header] = [0; 3].map(|_| pool.alloc(memory, WORDS));
        memory.store(bottom + KEY, 0);
        memory.store(bottom + RIGHT, bottom);
        memory.store(bottom + DOWN, bottom);
        memory.store(tail + KEY, LAST);
        memory.store(tail + RIGHT, tail);
        memory.store(tail + DOWN, tail);
        memory.store(header + KEY, LAST);
        memory.store(header + RIGHT, tail);
        memory.store(header + DOWN, bottom);
        memory.store(top, header);
        Self {
            pool,
            top,
            bottom,
            tail,
        }
    }

    fn insert<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) {
        let mut node = memory.load(self.top);
        // On the lowest level every gap ends with the key.
        memory.store(self.bottom + KEY, key);
        while node != self.bottom {
            while memory.load(node + KEY) < key {
                node = memory.load(node + RIGHT);
            }
            let far = Self::far(memory, node);
            if memory.load(node + KEY) > memory.load(far + KEY) {
                // A gap of three, or the place of the key: raise the middle.
                let middle = memory.load(memory.load(node + DOWN) + RIGHT);
                let new = self.pool.alloc(memory, WORDS);
                memory.store(new + RIGHT, memory.load(node + RIGHT));
                memory.store(new + DOWN, far);
                memory.store(node + RIGHT, new);
                memory.store(new + KEY, memory.load(node + KEY));
                memory.store(node + KEY, memory.load(middle + KEY));
            } else {
                node = memory.load(node + DOWN);
            }
        }
        let header = memory.load(self.top);
        if memory.load(header + RIGHT) != self.tail {
            let new = self.pool.alloc(memory, WORDS);
            memory.store(new + DOWN, header);
            memory.store(new + RIGHT, self.tail);
            memory.store(new + KEY, LAST);
            memory.store(self.top, new);
        }
    }

    fn keys<M: Memory + ?Sized>(&self, memory: &M) -> Vec<u32> {
        let level = |header: u32| {
            let (mut keys, mut node) = (Vec::new(), header);
            while memory.load(node + KEY) != LAST {
                keys.push(memory.load(node + KEY));
                node = memory.load(node + RIGHT);
            }
            keys
        };
        let mut header = memory.load(self.top);
        let mut above = level(header);
        assert!(above.is_empty(), "nothing on the highest level");
        while memory.load(header + DOWN) != self.bottom {
            header = memory.load(header + DOWN);
            let own = level(header);
            assert!(own.is_sorted(), "order of a level");
            // Gaps of one to three between what is on the level above.
            let mut rest = own.as_slice();
            for end in above.iter().map(Some).chain([None]) {
                let gap = rest.iter().take_while(|key| Some(*key) != end).count();
                assert!((1..=3).contains(&gap) || own.is_empty(), "a gap of {gap}");
                rest = rest.get(gap + 1..).unwrap_or_default();
            }
            assert!(rest.is_empty(), "what is above is below");
            above = own;
        }
        above
    }
}
