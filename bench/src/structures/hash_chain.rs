// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hash table with separate chaining: a list with a header for each bucket.

use super::{Structure, next_prime};
use crate::memory::Memory;
use crate::pool::{NIL, Pool};

// The table: its size, and where the array of buckets is.
const BUCKETS: u32 = 0;
const ARRAY: u32 = 1;
const TABLE_WORDS: u32 = 2;
// A cell; the first of each list is a header.
const KEY: u32 = 0;
const NEXT: u32 = 1;
const CELL_WORDS: u32 = 2;

/// Hash table with separate chaining (`hashsepchain`).
#[derive(Debug, Clone)]
pub struct ChainHash {
    pool: Pool,
    table: u32,
}

impl ChainHash {
    fn header<M: Memory + ?Sized>(&self, memory: &M, key: u32) -> u32 {
        let bucket = key % memory.load(self.table + BUCKETS);
        memory.load(memory.load(self.table + ARRAY) + bucket)
    }
}

impl Structure for ChainHash {
    fn build<M: Memory + ?Sized>(memory: &M, mut pool: Pool, capacity: u32) -> Self {
        let buckets = next_prime(capacity);
        let table = pool.alloc(memory, TABLE_WORDS);
        let array = pool.alloc(memory, buckets);
        memory.store(table + BUCKETS, buckets);
        memory.store(table + ARRAY, array);
        for bucket in 0..buckets {
            let header = pool.alloc(memory, CELL_WORDS);
            memory.store(header + NEXT, NIL);
            memory.store(array + bucket, header);
        }
        Self { pool, table }
    }

    fn insert<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) {
        let header = self.header(memory, key);
        let new = self.pool.alloc(memory, CELL_WORDS);
        memory.store(new + NEXT, memory.load(header + NEXT));
        memory.store(new + KEY, key);
        memory.store(header + NEXT, new);
    }

    fn keys<M: Memory + ?Sized>(&self, memory: &M) -> Vec<u32> {
        let (buckets, array) = (
            memory.load(self.table + BUCKETS),
            memory.load(self.table + ARRAY),
        );
        let mut keys = Vec::new();
        for bucket in 0..buckets {
            let mut cell = memory.load(memory.load(array + bucket) + NEXT);
            while cell != NIL {
                let key = memory.load(cell + KEY);
                assert_eq!(key % buckets, bucket, "a key in its bucket");
                keys.push(key);
                cell = memory.load(cell + NEXT);
            }
        }
        keys
    }
}
