// SPDX-License-Identifier: MIT OR Apache-2.0
//! Binary search tree, not balanced.

use super::Structure;
use crate::memory::Memory;
use crate::pool::{NIL, Pool};

const KEY: u32 = 0;
const LEFT: u32 = 1;
const RIGHT: u32 = 2;
const WORDS: u32 = 3;

/// Binary search tree (`tree`).
#[derive(Debug, Clone)]
pub struct SearchTree {
    pool: Pool,
    root: u32,
}

impl SearchTree {
    fn insert_at<M: Memory + ?Sized>(&mut self, memory: &M, node: u32, key: u32) -> u32 {
        if node == NIL {
            let new = self.pool.alloc(memory, WORDS);
            memory.store(new + KEY, key);
            memory.store(new + LEFT, NIL);
            memory.store(new + RIGHT, NIL);
            return new;
        }
        let side = if key < memory.load(node + KEY) {
            LEFT
        } else {
            RIGHT
        };
        let child = self.insert_at(memory, memory.load(node + side), key);
        memory.store(node + side, child);
        node
    }

    /// The subtree without the key, and whether it had it.
    fn delete_at<M: Memory + ?Sized>(&mut self, memory: &M, node: u32, key: u32) -> (u32, bool) {
        if node == NIL {
            return (NIL, false);
        }
        let own = memory.load(node + KEY);
        if key != own {
            let side = if key < own { LEFT } else { RIGHT };
            let (child, found) = self.delete_at(memory, memory.load(node + side), key);
            memory.store(node + side, child);
            return (node, found);
        }
        let (left, right) = (memory.load(node + LEFT), memory.load(node + RIGHT));
        if left != NIL && right != NIL {
            let mut next = right;
            while memory.load(next + LEFT) != NIL {
                next = memory.load(next + LEFT);
            }
            let next = memory.load(next + KEY);
            memory.store(node + KEY, next);
            let (child, _) = self.delete_at(memory, right, next);
            memory.store(node + RIGHT, child);
            return (node, true);
        }
        self.pool.free(node, WORDS);
        (if left == NIL { right } else { left }, true)
    }
}

impl Structure for SearchTree {
    fn build<M: Memory + ?Sized>(memory: &M, mut pool: Pool, _capacity: u32) -> Self {
        let root = pool.alloc(memory, 1);
        memory.store(root, NIL);
        Self { pool, root }
    }

    fn insert<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) {
        let top = self.insert_at(memory, memory.load(self.root), key);
        memory.store(self.root, top);
    }

    fn delete<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) -> Option<u32> {
        let (top, found) = self.delete_at(memory, memory.load(self.root), key);
        memory.store(self.root, top);
        found.then_some(key)
    }

    fn keys<M: Memory + ?Sized>(&self, memory: &M) -> Vec<u32> {
        let (mut keys, mut path, mut node) = (Vec::new(), Vec::new(), memory.load(self.root));
        while node != NIL || !path.is_empty() {
            while node != NIL {
                path.push(node);
                node = memory.load(node + LEFT);
            }
            if let Some(top) = path.pop() {
                keys.push(memory.load(top + KEY));
                node = memory.load(top + RIGHT);
            }
        }
        assert!(keys.is_sorted(), "search order");
        keys
    }
}
