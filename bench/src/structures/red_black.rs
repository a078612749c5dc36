// SPDX-License-Identifier: MIT OR Apache-2.0
//! Red-black tree, with top-down insertion (Guibas and Sedgewick 1978).

use super::Structure;
use crate::memory::Memory;
use crate::pool::Pool;

const KEY: u32 = 0;
const LEFT: u32 = 1;
const RIGHT: u32 = 2;
const COLOR: u32 = 3;
const WORDS: u32 = 4;

const RED: u32 = 0;
const BLACK: u32 = 1;

/// Red-black tree (`rb`).
#[derive(Debug, Clone)]
pub struct RedBlackTree {
    pool: Pool,
    /// A node above the root; the tree is its right child.
    header: u32,
    /// The node which stands for nothing.
    none: u32,
}

/// A node and the three above it, on the way down.
#[derive(Debug, Clone, Copy)]
struct Path {
    great: u32,
    grand: u32,
    parent: u32,
    node: u32,
}

/// Brings the child on `side` above its parent.
fn rotate<M: Memory + ?Sized>(memory: &M, node: u32, side: u32) -> u32 {
    let other = LEFT + RIGHT - side;
    let child = memory.load(node + side);
    memory.store(node + side, memory.load(child + other));
    memory.store(child + other, node);
    child
}

impl RedBlackTree {
    /// The side of a node on which the key belongs; below the header it is
    /// the right one.
    fn side<M: Memory + ?Sized>(&self, memory: &M, node: u32, key: u32) -> u32 {
        if node != self.header && key < memory.load(node + KEY) {
            LEFT
        } else {
            RIGHT
        }
    }

    /// Rotates the child of `above` on the key's side.
    fn rotate_below<M: Memory + ?Sized>(&self, memory: &M, above: u32, key: u32) -> u32 {
        let side = self.side(memory, above, key);
        let child = memory.load(above + side);
        let top = rotate(memory, child, self.side(memory, child, key));
        memory.store(above + side, top);
        top
    }

    /// Makes a node red and its children black, and rotates if its parent is
    /// red too.
    fn recolor<M: Memory + ?Sized>(&self, memory: &M, path: &mut Path, key: u32) {
        memory.store(path.node + COLOR, RED);
        memory.store(memory.load(path.node + LEFT) + COLOR, BLACK);
        memory.store(memory.load(path.node + RIGHT) + COLOR, BLACK);
        if memory.load(path.parent + COLOR) == RED {
            memory.store(path.grand + COLOR, RED);
            let inside = self.side(memory, path.grand, key) != self.side(memory, path.parent, key);
            if inside {
                path.parent = self.rotate_below(memory, path.grand, key);
            }
            path.node = self.rotate_below(memory, path.great, key);
            memory.store(path.node + COLOR, BLACK);
        }
        memory.store(memory.load(self.header + RIGHT) + COLOR, BLACK);
    }

    /// Checks a subtree and returns its black nodes a path.
    fn check<M: Memory + ?Sized>(&self, memory: &M, node: u32, keys: &mut Vec<u32>) -> u32 {
        if node == self.none {
            return 0;
        }
        let (left, right) = (memory.load(node + LEFT), memory.load(node + RIGHT));
        let color = memory.load(node + COLOR);
        for child in [left, right] {
            let fine = color == BLACK || memory.load(child + COLOR) == BLACK;
            assert!(fine, "no red child of a red node");
        }
        let black = self.check(memory, left, keys);
        keys.push(memory.load(node + KEY));
        assert_eq!(black, self.check(memory, right, keys), "black nodes a path");
        black + color
    }
}

impl Structure for RedBlackTree {
    fn build<M: Memory + ?Sized>(memory: &M, mut pool: Pool, _capacity: u32) -> Self {
        let none = pool.alloc(memory, WORDS);
        let header = pool.alloc(memory, WORDS);
        for node in [none, header] {
            memory.store(node + KEY, 0);
            memory.store(node + LEFT, none);
            memory.store(node + RIGHT, none);
            memory.store(node + COLOR, BLACK);
        }
        Self { pool, header, none }
    }

    fn insert<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) {
        let header = self.header;
        let mut path = Path {
            great: header,
            grand: header,
            parent: header,
            node: header,
        };
        // The search ends at the node for nothing: it gets the key.
        memory.store(self.none + KEY, key);
        while path.node == header || memory.load(path.node + KEY) != key {
            let side = self.side(memory, path.node, key);
            path = Path {
                great: path.grand,
                grand: path.parent,
                parent: path.node,
                node: memory.load(path.node + side),
            };
            let red = |side| memory.load(memory.load(path.node + side) + COLOR) == RED;
            if red(LEFT) && red(RIGHT) {
                self.recolor(memory, &mut path, key);
            }
        }
        let new = self.pool.alloc(memory, WORDS);
        memory.store(new + KEY, key);
        memory.store(new + LEFT, self.none);
        memory.store(new + RIGHT, self.none);
        let side = self.side(memory, path.parent, key);
        memory.store(path.parent + side, new);
        path.node = new;
        self.recolor(memory, &mut path, key);
    }

    fn keys<M: Memory + ?Sized>(&self, memory: &M) -> Vec<u32> {
        let mut keys = Vec::new();
        self.check(memory, memory.load(self.header + RIGHT), &mut keys);
        assert!(keys.is_sorted(), "search order");
        keys
    }
}
