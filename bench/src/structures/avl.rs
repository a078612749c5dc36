// SPDX-License-Identifier: MIT OR Apache-2.0
//! AVL tree.

use super::Structure;
use crate::memory::Memory;
use crate::pool::{NIL, Pool};

const KEY: u32 = 0;
const LEFT: u32 = 1;
const RIGHT: u32 = 2;
const HEIGHT: u32 = 3;
const WORDS: u32 = 4;

/// AVL tree (`avl`).
#[derive(Debug, Clone)]
pub struct AvlTree {
    pool: Pool,
    root: u32,
}

/// Height plus one; of nothing it is 0.
fn levels<M: Memory + ?Sized>(memory: &M, node: u32) -> u32 {
    if node == NIL {
        0
    } else {
        memory.load(node + HEIGHT) + 1
    }
}

fn set_height<M: Memory + ?Sized>(memory: &M, node: u32) {
    let left = levels(memory, memory.load(node + LEFT));
    let right = levels(memory, memory.load(node + RIGHT));
    memory.store(node + HEIGHT, left.max(right));
}

/// Brings the child on `side` above its parent.
fn rotate<M: Memory + ?Sized>(memory: &M, node: u32, side: u32) -> u32 {
    let other = LEFT + RIGHT - side;
    let child = memory.load(node + side);
    memory.store(node + side, memory.load(child + other));
    memory.store(child + other, node);
    set_height(memory, node);
    set_height(memory, child);
    child
}

impl AvlTree {
    fn insert_at<M: Memory + ?Sized>(&mut self, memory: &M, node: u32, key: u32) -> u32 {
        if node == NIL {
            let new = self.pool.alloc(memory, WORDS);
            memory.store(new + KEY, key);
            memory.store(new + HEIGHT, 0);
            memory.store(new + LEFT, NIL);
            memory.store(new + RIGHT, NIL);
            return new;
        }
        let side = if key < memory.load(node + KEY) {
            LEFT
        } else {
            RIGHT
        };
        let other = LEFT + RIGHT - side;
        let child = self.insert_at(memory, memory.load(node + side), key);
        memory.store(node + side, child);
        let mut top = node;
        if levels(memory, child) == levels(memory, memory.load(node + other)) + 2 {
            let outside = (key < memory.load(child + KEY)) == (side == LEFT);
            if !outside {
                let middle = rotate(memory, child, other);
                memory.store(node + side, middle);
            }
            top = rotate(memory, node, side);
        }
        set_height(memory, top);
        top
    }

    fn check<M: Memory + ?Sized>(memory: &M, node: u32, keys: &mut Vec<u32>) -> u32 {
        if node == NIL {
            return 0;
        }
        let left = Self::check(memory, memory.load(node + LEFT), keys);
        keys.push(memory.load(node + KEY));
        let right = Self::check(memory, memory.load(node + RIGHT), keys);
        assert!(left.abs_diff(right) <= 1, "balance");
        assert_eq!(memory.load(node + HEIGHT), left.max(right), "height");
        left.max(right) + 1
    }
}

impl Structure for AvlTree {
    fn build<M: Memory + ?Sized>(memory: &M, mut pool: Pool, _capacity: u32) -> Self {
        let root = pool.alloc(memory, 1);
        memory.store(root, NIL);
        Self { pool, root }
    }

    fn insert<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) {
        let top = self.insert_at(memory, memory.load(self.root), key);
        memory.store(self.root, top);
    }

    fn keys<M: Memory + ?Sized>(&self, memory: &M) -> Vec<u32> {
        let mut keys = Vec::new();
        Self::check(memory, memory.load(self.root), &mut keys);
        assert!(keys.is_sorted(), "search order");
        keys
    }
}
