// SPDX-License-Identifier: MIT OR Apache-2.0
//! Splay tree, top-down (Sleator and Tarjan 1985).

use super::Structure;
use crate::memory::Memory;
use crate::pool::Pool;

const KEY: u32 = 0;
const LEFT: u32 = 1;
const RIGHT: u32 = 2;
const WORDS: u32 = 3;

/// Splay tree (`splay`).
#[derive(Debug, Clone)]
pub struct SplayTree {
    pool: Pool,
    root: u32,
    /// The node which stands for nothing.
    none: u32,
}

/// One of the two trees into which splaying takes a tree apart.
#[derive(Debug)]
struct Part {
    /// Side on which it grows.
    side: u32,
    root: u32,
    /// Where it grows; none while it is empty.
    last: Option<u32>,
}

impl Part {
    fn hang<M: Memory + ?Sized>(&mut self, memory: &M, node: u32) {
        match self.last {
            Some(last) => memory.store(last + self.side, node),
            None => self.root = node,
        }
    }
}

/// Brings the child on `side` above its parent.
fn rotate<M: Memory + ?Sized>(memory: &M, node: u32, side: u32) -> u32 {
    let other = LEFT + RIGHT - side;
    let child = memory.load(node + side);
    memory.store(node + side, memory.load(child + other));
    memory.store(child + other, node);
    child
}

impl SplayTree {
    /// Brings the key, or one beside it, to the top.
    fn splay<M: Memory + ?Sized>(&self, memory: &M, mut node: u32, key: u32) -> u32 {
        let part = |side| Part {
            side,
            root: self.none,
            last: None,
        };
        // What is smaller grows on its right side, what is larger on its left.
        let (mut smaller, mut larger) = (part(RIGHT), part(LEFT));
        memory.store(self.none + KEY, key);
        while memory.load(node + KEY) != key {
            let left = key < memory.load(node + KEY);
            let (side, part) = if left {
                (LEFT, &mut larger)
            } else {
                (RIGHT, &mut smaller)
            };
            let child = memory.load(memory.load(node + side) + KEY);
            if child != key && (key < child) == left {
                node = rotate(memory, node, side);
            }
            if memory.load(node + side) == self.none {
                break;
            }
            part.hang(memory, node);
            part.last = Some(node);
            node = memory.load(node + side);
        }
        smaller.hang(memory, memory.load(node + LEFT));
        larger.hang(memory, memory.load(node + RIGHT));
        memory.store(node + LEFT, smaller.root);
        memory.store(node + RIGHT, larger.root);
        node
    }
}

impl Structure for SplayTree {
    fn build<M: Memory + ?Sized>(memory: &M, mut pool: Pool, _capacity: u32) -> Self {
        let root = pool.alloc(memory, 1);
        let none = pool.alloc(memory, WORDS);
        memory.store(none + KEY, 0);
        memory.store(none + LEFT, none);
        memory.store(none + RIGHT, none);
        memory.store(root, none);
        Self { pool, root, none }
    }

    fn insert<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) {
        let new = self.pool.alloc(memory, WORDS);
        memory.store(new + KEY, key);
        let old = memory.load(self.root);
        if old == self.none {
            memory.store(new + LEFT, self.none);
            memory.store(new + RIGHT, self.none);
        } else {
            let top = self.splay(memory, old, key);
            let (side, other) = if key < memory.load(top + KEY) {
                (LEFT, RIGHT)
            } else {
                (RIGHT, LEFT)
            };
            memory.store(new + side, memory.load(top + side));
            memory.store(new + other, top);
            memory.store(top + side, self.none);
        }
        memory.store(self.root, new);
    }

    fn delete<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) -> Option<u32> {
        let old = memory.load(self.root);
        if old == self.none {
            return None;
        }
        let top = self.splay(memory, old, key);
        memory.store(self.root, top);
        if memory.load(top + KEY) != key {
            return None;
        }
        let (left, right) = (memory.load(top + LEFT), memory.load(top + RIGHT));
        let rest = if left == self.none {
            right
        } else {
            // The largest comes to the top: it has nothing on its right.
            let rest = self.splay(memory, left, key);
            memory.store(rest + RIGHT, right);
            rest
        };
        memory.store(self.root, rest);
        self.pool.free(top, WORDS);
        Some(key)
    }

    fn keys<M: Memory + ?Sized>(&self, memory: &M) -> Vec<u32> {
        let (mut keys, mut path, mut node) = (Vec::new(), Vec::new(), memory.load(self.root));
        while node != self.none || !path.is_empty() {
            while node != self.none {
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
