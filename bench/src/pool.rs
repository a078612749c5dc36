// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the structures' nodes come from.

use std::collections::BTreeMap;

use crate::memory::Memory;

/// No node: nothing is ever allocated at index 0.
pub const NIL: u32 = 0;

/// An allocator of blocks of words.
///
/// Each block is preceded by a word with its size, written when it is handed
/// out: the one store of an allocation.  What the pool itself knows lies
/// outside of the memory; after a recovery the end of the blocks is where the
/// first size of zero is, and free blocks are those which nothing refers to.
/// The paper's counts of writes fit such an allocator: one store more than
/// each insertion has by itself, none for a deletion.
#[derive(Debug, Clone)]
pub struct Pool {
    top: u32,
    end: u32,
    free: BTreeMap<u32, Vec<u32>>,
}

impl Pool {
    /// A pool of all words of the memory.
    ///
    /// # Panics
    /// If the memory has more words than an index can name.
    pub fn new<M: Memory + ?Sized>(memory: &M) -> Self {
        Self {
            top: 0,
            end: u32::try_from(memory.words()).expect("word indices have 32 bits"),
            free: BTreeMap::new(),
        }
    }

    /// A block of `words` words with whatever they hold.
    ///
    /// # Panics
    /// If the memory is full.
    pub fn alloc<M: Memory + ?Sized>(&mut self, memory: &M, words: u32) -> u32 {
        if let Some(block) = self.free.get_mut(&words).and_then(Vec::pop) {
            memory.store(block - 1, words);
            return block;
        }
        let block = self.top + 1;
        let top = block.checked_add(words).filter(|top| *top <= self.end);
        self.top = top.expect("the area is too small for this many operations");
        memory.store(block - 1, words);
        block
    }

    /// Takes back a block of `words` words.
    pub fn free(&mut self, block: u32, words: u32) {
        self.free.entry(words).or_default().push(block);
    }
}
