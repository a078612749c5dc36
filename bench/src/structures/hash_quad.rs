// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hash table with quadratic probing, which grows when half full.

use super::{Structure, next_prime};
use crate::memory::Memory;
use crate::pool::Pool;

// The table: its size, and where the array of cells is.
const CELLS: u32 = 0;
const ARRAY: u32 = 1;
const TABLE_WORDS: u32 = 2;
// A cell.
const KEY: u32 = 0;
const STATE: u32 = 1;
const CELL_WORDS: u32 = 2;

const EMPTY: u32 = 0;
const USED: u32 = 1;
/// Cells of a new table.
const FIRST: u32 = 13;

/// Hash table with quadratic probing (`hashquad`).
#[derive(Debug, Clone)]
pub struct QuadHash {
    pool: Pool,
    table: u32,
    /// Keys in it; the paper's table does not know.
    used: u32,
}

fn new_cells<M: Memory + ?Sized>(memory: &M, pool: &mut Pool, table: u32, cells: u32) {
    let array = pool.alloc(memory, cells * CELL_WORDS);
    memory.store(table + CELLS, cells);
    memory.store(table + ARRAY, array);
    for cell in 0..cells {
        memory.store(array + cell * CELL_WORDS + STATE, EMPTY);
    }
}

impl QuadHash {
    fn put<M: Memory + ?Sized>(&self, memory: &M, key: u32) {
        let (cells, array) = (
            memory.load(self.table + CELLS),
            memory.load(self.table + ARRAY),
        );
        let (mut cell, mut step) = (key % cells, 1);
        // The size is prime and half of the cells are empty: this ends.
        while memory.load(array + cell * CELL_WORDS + STATE) != EMPTY {
            cell = (cell + step) % cells;
            step += 2;
        }
        memory.store(array + cell * CELL_WORDS + STATE, USED);
        memory.store(array + cell * CELL_WORDS + KEY, key);
    }

    fn grow<M: Memory + ?Sized>(&mut self, memory: &M) {
        let keys = self.keys(memory);
        let (cells, array) = (
            memory.load(self.table + CELLS),
            memory.load(self.table + ARRAY),
        );
        new_cells(memory, &mut self.pool, self.table, next_prime(2 * cells));
        keys.into_iter().for_each(|key| self.put(memory, key));
        self.pool.free(array, cells * CELL_WORDS);
    }
}

impl Structure for QuadHash {
    fn build<M: Memory + ?Sized>(memory: &M, mut pool: Pool, _capacity: u32) -> Self {
        let table = pool.alloc(memory, TABLE_WORDS);
        new_cells(memory, &mut pool, table, FIRST);
        Self {
            pool,
            table,
            used: 0,
        }
    }

    fn insert<M: Memory + ?Sized>(&mut self, memory: &M, key: u32) {
        if self.used >= memory.load(self.table + CELLS) / 2 {
            self.grow(memory);
        }
        self.put(memory, key);
        self.used += 1;
    }

    fn keys<M: Memory + ?Sized>(&self, memory: &M) -> Vec<u32> {
        let (cells, array) = (
            memory.load(self.table + CELLS),
            memory.load(self.table + ARRAY),
        );
        (0..cells)
            .map(|cell| array + cell * CELL_WORDS)
            .filter(|cell| memory.load(cell + STATE) == USED)
            .map(|cell| memory.load(cell + KEY))
            .collect()
    }
}
