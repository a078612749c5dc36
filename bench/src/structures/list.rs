// SPDX-License-Identifier: MIT OR Apache-2.0
//! Singly linked list with a header.

use super::Structure;
use crate::memory::Memory;
use crate::pool::{NIL, Pool};

const KEY: u32 = 0;
const NEXT: u32 = 1;
const WORDS: u32 = 2;

/// Linked list (`list`): insertion after the cell inserted last, deletion by
/// key.
#[derive(Debug, Clone)]
pub struct LinkedList {
    pool: Pool,
    header: u32,
    /// The program's position, which is not part of the list.
    position: u32,
}

impl Structure for LinkedList {
    fn build<M: Memory + ?Sized>(memory: &M, mut pool: Pool, _capacity: u32) -> Self {
        let header = pool.alloc(memory, WORDS);
        memory.store(header + NEXT, NIL);
        Self {
            pool,
            header,
            position: header,
        }
    }

    fn insert<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) {
        let new = self.pool.alloc(memory, WORDS);
        memory.store(new + KEY, key);
        memory.store(new + NEXT, memory.load(self.position + NEXT));
        memory.store(self.position + NEXT, new);
        self.position = new;
    }

    fn delete<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) -> Option<u32> {
        let mut before = self.header;
        loop {
            let cell = memory.load(before + NEXT);
            if cell == NIL {
                return None;
            }
            if memory.load(cell + KEY) == key {
                memory.store(before + NEXT, memory.load(cell + NEXT));
                if self.position == cell {
                    self.position = before;
                }
                self.pool.free(cell, WORDS);
                return Some(key);
            }
            before = cell;
        }
    }

    fn keys<M: Memory + ?Sized>(&self, memory: &M) -> Vec<u32> {
        let (mut keys, mut cell) = (Vec::new(), memory.load(self.header + NEXT));
        while cell != NIL {
            keys.push(memory.load(cell + KEY));
            cell = memory.load(cell + NEXT);
        }
        keys
    }
}
