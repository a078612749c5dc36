// SPDX-License-Identifier: MIT OR Apache-2.0
//! Binomial queue: a forest of heap-ordered binomial trees.

use super::Structure;
use crate::memory::Memory;
use crate::pool::{NIL, Pool};

// A queue: its size, and the tree of each rank.
const SIZE: u32 = 0;
const TREES: u32 = 1;
// A node.
const KEY: u32 = 0;
const CHILD: u32 = 1;
const SIBLING: u32 = 2;
const WORDS: u32 = 3;

/// Binomial queue (`bin`).
#[derive(Debug, Clone)]
pub struct BinomialQueue {
    pool: Pool,
    queue: u32,
    /// Ranks which a queue has room for.
    ranks: u32,
}

/// An empty queue.
fn empty<M: Memory + ?Sized>(memory: &M, pool: &mut Pool, ranks: u32) -> u32 {
    let queue = pool.alloc(memory, TREES + ranks);
    (0..ranks).for_each(|rank| memory.store(queue + TREES + rank, NIL));
    memory.store(queue + SIZE, 0);
    queue
}

/// One tree of two of the same rank.
fn link<M: Memory + ?Sized>(memory: &M, one: u32, two: u32) -> u32 {
    let (top, below) = if memory.load(one + KEY) <= memory.load(two + KEY) {
        (one, two)
    } else {
        (two, one)
    };
    memory.store(below + SIBLING, memory.load(top + CHILD));
    memory.store(top + CHILD, below);
    top
}

impl BinomialQueue {
    /// Moves the single tree of `from` into `into`, as one is added to a
    /// number.
    fn merge<M: Memory + ?Sized>(&self, memory: &M, into: u32, from: u32) {
        let size = memory.load(into + SIZE) + memory.load(from + SIZE);
        memory.store(into + SIZE, size);
        let mut carry = NIL;
        for rank in (0..self.ranks).take_while(|rank| 1 << rank <= size) {
            let (at, other) = (into + TREES + rank, from + TREES + rank);
            let (own, new) = (memory.load(at), memory.load(other));
            if new != NIL {
                carry = new;
                memory.store(other, NIL);
            }
            if carry == NIL {
                continue;
            }
            if own == NIL {
                memory.store(at, carry);
                carry = NIL;
            } else {
                carry = link(memory, own, carry);
                memory.store(at, NIL);
            }
        }
    }

    /// Checks a tree of a rank.
    fn check<M: Memory + ?Sized>(memory: &M, node: u32, rank: u32, keys: &mut Vec<u32>) {
        let key = memory.load(node + KEY);
        keys.push(key);
        let mut child = memory.load(node + CHILD);
        for below in (0..rank).rev() {
            assert!(child != NIL, "a child of each lower rank");
            assert!(key <= memory.load(child + KEY), "heap order");
            Self::check(memory, child, below, keys);
            child = memory.load(child + SIBLING);
        }
    }
}

impl Structure for BinomialQueue {
    fn build<M: Memory + ?Sized>(memory: &M, mut pool: Pool, capacity: u32) -> Self {
        let ranks = u32::BITS - capacity.leading_zeros();
        let queue = empty(memory, &mut pool, ranks);
        Self { pool, queue, ranks }
    }

    fn insert<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) {
        // A queue of one, merged.
        let one = empty(memory, &mut self.pool, self.ranks);
        let node = self.pool.alloc(memory, WORDS);
        memory.store(node + KEY, key);
        memory.store(node + CHILD, NIL);
        memory.store(node + SIBLING, NIL);
        memory.store(one + SIZE, 1);
        memory.store(one + TREES, node);
        self.merge(memory, self.queue, one);
        self.pool.free(one, TREES + self.ranks);
    }

    fn keys<M: Memory + ?Sized>(&self, memory: &M) -> Vec<u32> {
        let mut keys = Vec::new();
        for rank in 0..self.ranks {
            let tree = memory.load(self.queue + TREES + rank);
            let has = memory.load(self.queue + SIZE) >> rank & 1 == 1;
            assert_eq!(tree != NIL, has, "trees as the size in binary");
            if has {
                Self::check(memory, tree, rank, &mut keys);
            }
        }
        keys
    }
}
