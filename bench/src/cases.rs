// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of the paper's Table 2: which structure, which operation, in
//! which order.
//!
//! The orders are those with which the paper's counts come out.  Its 720.7
//! writes of an insertion into the binary search tree are no property of
//! random keys (about 30) but of keys in steps of seven modulo the number of
//! keys, which make seven chains; with deletions in ascending order its other
//! rows come out too.

use std::fmt;

use crate::memory::Memory;
use crate::pool::Pool;
use crate::structures::{
    AaTree, AvlTree, BinaryHeap, BinomialQueue, ChainHash, LeftistHeap, LinkedList, QuadHash,
    Queue, RedBlackTree, SearchTree, SkipList, SplayTree, Structure,
};

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Adds a key to a structure which was empty at first.
    Insert,
    /// Takes one away from a structure which was full at first.
    Delete,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Insert => "insert",
            Self::Delete => "delete",
        })
    }
}

/// Writes and unique pages a transaction, as the paper has them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Published {
    /// With one operation a transaction.
    pub opt1: (f64, f64),
    /// With five.
    pub opt5: (f64, f64),
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// The paper's name of the structure.
    pub structure: &'static str,
    /// The operation.
    pub op: Op,
    /// Distance of consecutive keys, modulo their number.
    pub step: u32,
    /// What the paper counted.
    pub paper: Published,
}

const fn case(
    structure: &'static str,
    op: Op,
    step: u32,
    opt1: (f64, f64),
    opt5: (f64, f64),
) -> Case {
    let paper = Published { opt1, opt5 };
    Case {
        structure,
        op,
        step,
        paper,
    }
}

/// Table 2.
pub const CASES: [Case; 20] = [
    case("aa", Op::Insert, 7, (21.9, 4.9), (109.9, 5.0)),
    case("aa", Op::Delete, 7, (20.4, 6.0), (102.0, 8.8)),
    case("avl", Op::Insert, 7, (30.5, 5.1), (152.8, 5.1)),
    case("bin", Op::Insert, 71, (27.9, 2.0), (139.9, 2.3)),
    case("dsl", Op::Insert, 7, (10.4, 3.1), (52.0, 3.6)),
    case("hashquad", Op::Insert, 71, (11.3, 1.0), (56.9, 1.6)),
    case("hashsepchain", Op::Insert, 7, (4.0, 1.9), (20.0, 1.9)),
    case("leftheap", Op::Insert, 17, (23.5, 3.0), (117.8, 3.0)),
    case("leftheap", Op::Delete, 17, (34.0, 9.2), (170.0, 18.5)),
    case("heap", Op::Insert, 71, (2.8, 2.4), (14.3, 2.8)),
    case("heap", Op::Delete, 71, (12.5, 2.7), (62.7, 4.1)),
    case("list", Op::Insert, 1, (4.0, 1.0), (20.0, 1.0)),
    case("list", Op::Delete, 1, (1.0, 1.0), (5.0, 1.0)),
    case("queue", Op::Insert, 1, (3.0, 1.8), (15.0, 1.9)),
    case("queue", Op::Delete, 1, (2.0, 1.0), (10.0, 1.0)),
    case("rb", Op::Insert, 7, (13.7, 4.6), (68.5, 4.9)),
    case("splay", Op::Insert, 7, (20.0, 4.7), (100.4, 5.0)),
    case("splay", Op::Delete, 7, (7.7, 3.0), (38.8, 6.7)),
    case("tree", Op::Insert, 7, (720.7, 5.4), (3603.9, 5.5)),
    case("tree", Op::Delete, 7, (1.7, 1.7), (8.56, 4.1)),
];

/// The row of a structure and an operation.
#[must_use]
pub fn find(structure: &str, op: Op) -> Option<Case> {
    let same = |case: &&Case| case.structure == structure && case.op == op;
    CASES.iter().find(same).copied()
}

/// Who works with a case's structure, whatever its type.
pub trait Visit {
    /// What comes of it.
    type Output;
    /// Works with it.
    fn visit<S: Structure>(self) -> Self::Output;
}

impl Case {
    /// Calls the visitor with the type of the structure.
    pub fn with<V: Visit>(&self, visitor: V) -> V::Output {
        match self.structure {
            "aa" => visitor.visit::<AaTree>(),
            "avl" => visitor.visit::<AvlTree>(),
            "bin" => visitor.visit::<BinomialQueue>(),
            "dsl" => visitor.visit::<SkipList>(),
            "hashquad" => visitor.visit::<QuadHash>(),
            "hashsepchain" => visitor.visit::<ChainHash>(),
            "leftheap" => visitor.visit::<LeftistHeap>(),
            "heap" => visitor.visit::<BinaryHeap>(),
            "list" => visitor.visit::<LinkedList>(),
            "queue" => visitor.visit::<Queue>(),
            "rb" => visitor.visit::<RedBlackTree>(),
            "splay" => visitor.visit::<SplayTree>(),
            "tree" => visitor.visit::<SearchTree>(),
            other => unreachable!("{other} is in no row of the table"),
        }
    }

    /// The key which is inserted as the `index`th of `count`.
    fn inserted(&self, index: u32, count: u32) -> u32 {
        let key = u64::from(index) * u64::from(self.step) % u64::from(count.max(1));
        u32::try_from(key).expect("less than the count")
    }

    /// An empty structure, or a full one if the operation deletes.
    pub fn prepare<S: Structure, M: Memory + ?Sized>(&self, memory: &M, count: u32) -> S {
        let mut structure = S::build(memory, Pool::new(memory), count);
        if self.op == Op::Delete {
            (0..count).for_each(|index| structure.insert(memory, self.inserted(index, count)));
        }
        structure
    }

    /// The `index`th operation of `count`.
    pub fn operate<S: Structure, M: Memory + ?Sized>(
        &self,
        structure: &mut S,
        memory: &M,
        index: u32,
        count: u32,
    ) {
        match self.op {
            Op::Insert => structure.insert(memory, self.inserted(index, count)),
            Op::Delete => {
                structure.delete(memory, index);
            }
        }
    }
}
