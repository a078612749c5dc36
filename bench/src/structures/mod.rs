// SPDX-License-Identifier: MIT OR Apache-2.0
//! The structures of the paper's Table 2.
//!
//! Textbook algorithms in their textbook form, which is what the paper's
//! counts of writes show: recursive insertions store the link to the child on
//! every level, changed or not.  Everything but the pool lies in the memory,
//! the root too.
//!
//! They are loads for trackers, not a library: keys are unique, and below
//! `u32::MAX`.

mod aa;
mod avl;
mod binomial;
mod bst;
mod hash_chain;
mod hash_quad;
mod heap;
mod leftist;
mod list;
mod queue;
mod red_black;
mod skip_list;
mod splay;

pub use aa::AaTree;
pub use avl::AvlTree;
pub use binomial::BinomialQueue;
pub use bst::SearchTree;
pub use hash_chain::ChainHash;
pub use hash_quad::QuadHash;
pub use heap::BinaryHeap;
pub use leftist::LeftistHeap;
pub use list::LinkedList;
pub use queue::Queue;
pub use red_black::RedBlackTree;
pub use skip_list::SkipList;
pub use splay::SplayTree;

use crate::memory::Memory;
use crate::pool::Pool;

/// A structure in memory.
///
/// A clone works on a copy of the memory.
pub trait Structure: Clone + Sized {
    /// Makes an empty one for up to `capacity` keys.
    fn build<M: Memory + ?Sized>(memory: &M, pool: Pool, capacity: u32) -> Self;

    /// Adds a key which it does not hold.
    fn insert<M: Memory + ?Sized>(&mut self, memory: &M, key: u32);

    /// Takes out a key: the given one, or, from heaps and queues, the one
    /// which is next.  Returns it; `None` if there is none, or if the paper
    /// lists no deletion of this structure.
    fn delete<M: Memory + ?Sized>(&mut self, _memory: &M, _key: u32) -> Option<u32> {
        None
    }

    /// Checks the structure's invariants and returns its keys, in the order
    /// in which it keeps them.
    ///
    /// # Panics
    /// If an invariant does not hold.
    fn keys<M: Memory + ?Sized>(&self, memory: &M) -> Vec<u32>;
}

/// The smallest prime which is not below `number`.
fn next_prime(number: u32) -> u32 {
    let is_prime = |n: u32| {
        n >= 2
            && (2..)
                .take_while(|d| d * d <= n)
                .all(|d| !n.is_multiple_of(d))
    };
    (number.max(2)..).find(|n| is_prime(*n)).unwrap_or(number)
}
