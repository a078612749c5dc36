// SPDX-License-Identifier: MIT OR Apache-2.0
//! AA-tree (Andersson 1993), with a node of level 0 for nothing.

use super::Structure;
use crate::memory::Memory;
use crate::pool::Pool;

const KEY: u32 = 0;
const LEFT: u32 = 1;
const RIGHT: u32 = 2;
const LEVEL: u32 = 3;
const WORDS: u32 = 4;

/// AA-tree (`aa`).
#[derive(Debug, Clone)]
pub struct AaTree {
    pool: Pool,
    root: u32,
    /// The node which stands for nothing; never written to after the start.
    none: u32,
}

/// What a deletion remembers on its way down.
#[derive(Debug)]
struct Deletion {
    key: u32,
    /// Last node visited.
    last: u32,
    /// Last node at which it went right: the one with the key, if any has it.
    candidate: Option<u32>,
}

fn level<M: Memory + ?Sized>(memory: &M, node: u32) -> u32 {
    memory.load(node + LEVEL)
}

/// Brings the child on `side` above its parent.
fn rotate<M: Memory + ?Sized>(memory: &M, node: u32, side: u32) -> u32 {
    let other = LEFT + RIGHT - side;
    let child = memory.load(node + side);
    memory.store(node + side, memory.load(child + other));
    memory.store(child + other, node);
    child
}

impl AaTree {
    /// Removes a left child of the node's own level.
    fn skew<M: Memory + ?Sized>(&self, memory: &M, node: u32) -> u32 {
        let left = memory.load(node + LEFT);
        if node != self.none && level(memory, left) == level(memory, node) {
            rotate(memory, node, LEFT)
        } else {
            node
        }
    }

    /// Removes two right children in a row of the node's own level.
    fn split<M: Memory + ?Sized>(&self, memory: &M, node: u32) -> u32 {
        let right = memory.load(node + RIGHT);
        let far = memory.load(right + RIGHT);
        if node != self.none && level(memory, far) == level(memory, node) {
            let top = rotate(memory, node, RIGHT);
            memory.store(top + LEVEL, level(memory, top) + 1);
            top
        } else {
            node
        }
    }

    fn insert_at<M: Memory + ?Sized>(&mut self, memory: &M, node: u32, key: u32) -> u32 {
        if node == self.none {
            let new = self.pool.alloc(memory, WORDS);
            memory.store(new + KEY, key);
            memory.store(new + LEVEL, 1);
            memory.store(new + LEFT, self.none);
            memory.store(new + RIGHT, self.none);
            return new;
        }
        let side = if key < memory.load(node + KEY) {
            LEFT
        } else {
            RIGHT
        };
        let child = self.insert_at(memory, memory.load(node + side), key);
        memory.store(node + side, child);
        let node = self.skew(memory, node);
        self.split(memory, node)
    }

    fn delete_at<M: Memory + ?Sized>(
        &mut self,
        memory: &M,
        node: u32,
        path: &mut Deletion,
    ) -> (u32, bool) {
        if node == self.none {
            return (node, false);
        }
        path.last = node;
        let side = if path.key < memory.load(node + KEY) {
            LEFT
        } else {
            path.candidate = Some(node);
            RIGHT
        };
        let (child, found) = self.delete_at(memory, memory.load(node + side), path);
        memory.store(node + side, child);
        if node == path.last {
            // At the bottom: this node goes, its key takes the place.
            let found = path
                .candidate
                .filter(|candidate| memory.load(candidate + KEY) == path.key);
            if let Some(place) = found {
                memory.store(place + KEY, memory.load(node + KEY));
                let right = memory.load(node + RIGHT);
                self.pool.free(node, WORDS);
                return (right, true);
            }
            return (node, false);
        }
        (self.rebalance(memory, node), found)
    }

    /// After a deletion below.
    fn rebalance<M: Memory + ?Sized>(&self, memory: &M, node: u32) -> u32 {
        let (left, right) = (memory.load(node + LEFT), memory.load(node + RIGHT));
        let own = level(memory, node);
        if level(memory, left) + 1 >= own && level(memory, right) + 1 >= own {
            return node;
        }
        memory.store(node + LEVEL, own - 1);
        if level(memory, right) > own - 1 {
            memory.store(right + LEVEL, own - 1);
        }
        let node = self.skew(memory, node);
        let right = self.skew(memory, memory.load(node + RIGHT));
        memory.store(node + RIGHT, right);
        if right != self.none {
            let far = self.skew(memory, memory.load(right + RIGHT));
            memory.store(right + RIGHT, far);
        }
        let node = self.split(memory, node);
        let right = self.split(memory, memory.load(node + RIGHT));
        memory.store(node + RIGHT, right);
        node
    }

    fn check<M: Memory + ?Sized>(&self, memory: &M, node: u32, keys: &mut Vec<u32>) {
        if node == self.none {
            return;
        }
        let (left, right) = (memory.load(node + LEFT), memory.load(node + RIGHT));
        let own = level(memory, node);
        assert_eq!(level(memory, left) + 1, own, "level of a left child");
        let below = own - level(memory, right);
        assert!(below <= 1, "level of a right child");
        assert!(
            level(memory, memory.load(right + RIGHT)) < own,
            "level of the right grandchild"
        );
        self.check(memory, left, keys);
        keys.push(memory.load(node + KEY));
        self.check(memory, right, keys);
    }
}

impl Structure for AaTree {
    fn build<M: Memory + ?Sized>(memory: &M, mut pool: Pool, _capacity: u32) -> Self {
        let root = pool.alloc(memory, 1);
        let none = pool.alloc(memory, WORDS);
        memory.store(none + KEY, 0);
        memory.store(none + LEVEL, 0);
        memory.store(none + LEFT, none);
        memory.store(none + RIGHT, none);
        memory.store(root, none);
        Self { pool, root, none }
    }

    fn insert<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) {
        let top = self.insert_at(memory, memory.load(self.root), key);
        memory.store(self.root, top);
    }

    fn delete<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) -> Option<u32> {
        let mut path = Deletion {
            key,
            last: self.none,
            candidate: None,
        };
        let (top, found) = self.delete_at(memory, memory.load(self.root), &mut path);
        memory.store(self.root, top);
        found.then_some(key)
    }

    fn keys<M: Memory + ?Sized>(&self, memory: &M) -> Vec<u32> {
        let mut keys = Vec::new();
        self.check(memory, memory.load(self.root), &mut keys);
        assert!(keys.is_sorted(), "search order");
        keys
    }
}
