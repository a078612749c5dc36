// SPDX-License-Identifier: MIT OR Apache-2.0
//! Leftist heap: a heap-ordered tree whose right paths are short.

use super::Structure;
use crate::memory::Memory;
use crate::pool::{NIL, Pool};

const KEY: u32 = 0;
const LEFT: u32 = 1;
const RIGHT: u32 = 2;
/// Length of the shortest path to a missing child.
const PATH: u32 = 3;
const WORDS: u32 = 4;

/// Leftist heap (`leftheap`).
#[derive(Debug, Clone)]
pub struct LeftistHeap {
    pool: Pool,
    root: u32,
}

fn merge<M: Memory + ?Sized>(memory: &M, one: u32, two: u32) -> u32 {
    if one == NIL || two == NIL {
        return one.max(two);
    }
    let (top, other) = if memory.load(one + KEY) < memory.load(two + KEY) {
        (one, two)
    } else {
        (two, one)
    };
    let left = memory.load(top + LEFT);
    if left == NIL {
        memory.store(top + LEFT, other);
        return top;
    }
    let right = merge(memory, memory.load(top + RIGHT), other);
    memory.store(top + RIGHT, right);
    let (mut long, mut short) = (left, right);
    if memory.load(left + PATH) < memory.load(right + PATH) {
        (long, short) = (right, left);
        memory.store(top + LEFT, long);
        memory.store(top + RIGHT, short);
    }
    debug_assert!(memory.load(long + PATH) >= memory.load(short + PATH));
    memory.store(top + PATH, memory.load(short + PATH) + 1);
    top
}

impl LeftistHeap {
    fn check<M: Memory + ?Sized>(memory: &M, node: u32, least: u32, keys: &mut Vec<u32>) -> u32 {
        if node == NIL {
            return 0;
        }
        let key = memory.load(node + KEY);
        assert!(least <= key, "heap order");
        keys.push(key);
        let left = Self::check(memory, memory.load(node + LEFT), key, keys);
        let right = Self::check(memory, memory.load(node + RIGHT), key, keys);
        assert!(left >= right, "the right path is the shortest");
        assert_eq!(memory.load(node + PATH), right, "length of the path");
        right + 1
    }
}

impl Structure for LeftistHeap {
    fn build<M: Memory + ?Sized>(memory: &M, mut pool: Pool, _capacity: u32) -> Self {
        let root = pool.alloc(memory, 1);
        memory.store(root, NIL);
        Self { pool, root }
    }

    fn insert<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) {
        let new = self.pool.alloc(memory, WORDS);
        memory.store(new + KEY, key);
        memory.store(new + PATH, 0);
        memory.store(new + LEFT, NIL);
        memory.store(new + RIGHT, NIL);
        let top = merge(memory, new, memory.load(self.root));
        memory.store(self.root, top);
    }

    fn delete<M: Memory + ?Sized>(&mut self, memory: &M, _key: u32) -> Option<u32> {
        let old = memory.load(self.root);
        if old == NIL {
            return None;
        }
        let top = merge(memory, memory.load(old + LEFT), memory.load(old + RIGHT));
        memory.store(self.root, top);
        self.pool.free(old, WORDS);
        Some(memory.load(old + KEY))
    }

    fn keys<M: Memory + ?Sized>(&self, memory: &M) -> Vec<u32> {
        let mut keys = Vec::new();
        Self::check(memory, memory.load(self.root), 0, &mut keys);
        keys
    }
}
