// SPDX-License-Identifier: MIT OR Apache-2.0
//! The allocator: everything it knows is in the memory it hands out from, as
//! offsets, so that abort and recovery bring it back with the data.
//!
//! Blocks have sizes in classes, four to a doubling.  What is freed goes to
//! the list of its class; an empty list is served from memory which was never
//! used, then by splitting a larger block.  Free neighbours are not joined.
//!
//! # Safety
//! With `arena/mod.rs`, the only `unsafe` code of the arena.  A [`Heap`] is
//! made of whole pages which are mapped as long as it is used; its own words
//! are accessed atomically, in bounds, and with the lock of its address held.

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use allocator_api2::alloc::{AllocError, Allocator};

use hvckpt_sys::PAGE_SIZE;

const MAGIC: u64 = u64::from_le_bytes(*b"hvckaren");
const FORMAT: u64 = 1;
/// Blocks are multiples of it, and as aligned.
const UNIT: u64 = 16;
/// Alignment which can be had at most.
const MAX_ALIGN: u64 = PAGE_SIZE as u64;
const CLASSES: usize = 160;

// Words of the header.
const AT_MAGIC: u64 = 0;
const AT_FORMAT: u64 = 1;
const AT_BYTES: u64 = 2;
const AT_TOP: u64 = 3;
const AT_ROOT: u64 = 4;
const AT_TAG: u64 = 5;
const AT_SHAPE: u64 = 6;
const AT_USED: u64 = 7;
const AT_LISTS: u64 = 32;
/// Bytes of the header.
const HEADER: u64 = (AT_LISTS + CLASSES as u64) * 8;

/// Outside of the arena: a lock in it would come back with an abort.
static LOCKS: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];

/// Class of a size, and the size of its blocks, in bytes.
fn class(bytes: u64) -> (usize, u64) {
    let units = bytes.div_ceil(UNIT).max(1);
    if units <= 4 {
        return (hvckpt_store::parts::size(units - 1), units * UNIT);
    }
    // 4 < units: the doubling, and the quarter in it.
    let doubling = u64::from((units - 1).ilog2());
    let step = 1 << (doubling - 2);
    let quarter = (units - 1 - (1 << doubling)) / step;
    let index = 4 + (doubling - 2) * 4 + quarter;
    (
        hvckpt_store::parts::size(index),
        ((1 << doubling) + (quarter + 1) * step) * UNIT,
    )
}

/// Bytes of the blocks of a class.
fn block_size(index: usize) -> Option<u64> {
    let index = index as u64;
    if index < 4 {
        return Some((index + 1) * UNIT);
    }
    let doubling = 2 + (index - 4) / 4;
    let units = 1_u64.checked_shl(u32::try_from(doubling).ok()?)?;
    let quarters = ((index - 4) % 4 + 1).checked_shl(u32::try_from(doubling - 2).ok()?)?;
    units.checked_add(quarters)?.checked_mul(UNIT)
}

/// What is wrong with the memory of an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeapError {
    /// It has no arena, and is not empty.
    #[error("the region holds something else than an arena; open it under another name")]
    NotAnArena,
    /// A newer version of the library made it.
    #[error("the arena has format {0}, which this library does not read: update it")]
    Future(u64),
    /// Its numbers make no sense.
    #[error(
        "the arena's own data is damaged; go back to an older version (hvckpt restore --in-place)"
    )]
    Damaged,
    /// No room for what must be in it.
    #[error("the region is too small for the arena and its root; give it more pages")]
    TooSmall,
}

/// An allocator of memory in an arena, and for things in it.
///
/// It is a plain address: after recovery the copies which lie in the arena
/// work as before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heap {
    base: NonNull<u8>,
}

// SAFETY: all access goes through the lock of the address.
unsafe impl Send for Heap {}
// SAFETY: as above.
unsafe impl Sync for Heap {}

impl Heap {
    /// # Safety
    /// `bytes` at `base` must be private pages, whole, mapped and unmoved as
    /// long as any copy of the result is used, and nobody else's to write.
    pub(super) unsafe fn open(base: NonNull<u8>, bytes: u64) -> Result<(Self, bool), HeapError> {
        let heap = Self { base };
        if bytes < HEADER + UNIT {
            return Err(HeapError::TooSmall);
        }
        let _locked = heap.lock();
        if heap.get(AT_MAGIC) == 0 {
            let header = (1..HEADER / 8).all(|word| heap.get(word) == 0);
            if !header {
                return Err(HeapError::NotAnArena);
            }
            heap.set(AT_MAGIC, MAGIC);
            heap.set(AT_FORMAT, FORMAT);
            heap.set(AT_BYTES, bytes);
            heap.set(AT_TOP, HEADER.next_multiple_of(UNIT));
            return Ok((heap, true));
        }
        if heap.get(AT_MAGIC) != MAGIC {
            return Err(HeapError::NotAnArena);
        }
        match heap.get(AT_FORMAT) {
            FORMAT => {}
            format => return Err(HeapError::Future(format)),
        }
        let (size, top) = (heap.get(AT_BYTES), heap.get(AT_TOP));
        if size > bytes || top > size || top < HEADER || top % UNIT != 0 {
            return Err(HeapError::Damaged);
        }
        let lists = (0..CLASSES as u64).map(|list| heap.get(AT_LISTS + list));
        if !lists
            .chain([heap.get(AT_ROOT)])
            .all(|block| block == 0 || heap.plausible(block))
        {
            return Err(HeapError::Damaged);
        }
        // The region may have grown.
        if size != bytes {
            heap.set(AT_BYTES, bytes);
        }
        Ok((heap, false))
    }

    fn lock(self) -> MutexGuard<'static, ()> {
        let lock = &LOCKS[(self.base.as_ptr() as usize / PAGE_SIZE) % LOCKS.len()];
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn word(&self, word: u64) -> &AtomicU64 {
        // SAFETY: callers stay below the arena's size, which `open` checked
        // to be mapped; words are aligned.
        unsafe {
            AtomicU64::from_ptr(
                self.base
                    .as_ptr()
                    .cast::<u64>()
                    .add(hvckpt_store::parts::size(word)),
            )
        }
    }

    fn get(&self, word: u64) -> u64 {
        self.word(word).load(Ordering::Relaxed)
    }

    fn set(&self, word: u64, value: u64) {
        self.word(word).store(value, Ordering::Relaxed);
    }

    /// Whether a block could begin at the offset.
    fn plausible(&self, offset: u64) -> bool {
        offset.is_multiple_of(UNIT) && offset >= HEADER && offset < self.get(AT_TOP)
    }

    fn push(&self, class: usize, offset: u64) {
        let list = AT_LISTS + class as u64;
        self.set(offset / 8, self.get(list));
        self.set(list, offset);
    }

    fn pop(&self, class: usize) -> Option<u64> {
        let list = AT_LISTS + class as u64;
        let offset = self.get(list);
        if !self.plausible(offset) {
            return None;
        }
        self.set(list, self.get(offset / 8));
        Some(offset)
    }

    /// Puts a range into the lists, in as large blocks as fit.
    fn give(&self, mut from: u64, to: u64) {
        while to - from >= UNIT {
            let room = to - from;
            let (mut index, mut size) = class(room);
            if size > room {
                index -= 1;
                size = block_size(index).unwrap_or(UNIT);
            }
            // Blocks of a power of two are aligned to it.
            if size.is_power_of_two() && !from.is_multiple_of(size.min(MAX_ALIGN)) {
                (index, size) = class(1 << from.trailing_zeros());
            }
            self.push(index, from);
            from += size;
        }
    }

    /// The block size for a layout, as class and bytes.
    pub(super) fn fit(layout: Layout) -> Option<(usize, u64)> {
        let (bytes, align) = (layout.size() as u64, layout.align() as u64);
        if align > MAX_ALIGN || bytes > 1 << 46 {
            return None;
        }
        let bytes = if align > UNIT {
            bytes.max(align).next_power_of_two()
        } else {
            bytes
        };
        let (index, size) = class(bytes);
        (index < CLASSES).then_some((index, size))
    }

    fn take(&self, index: usize, size: u64) -> Option<u64> {
        if let Some(offset) = self.pop(index) {
            return Some(offset);
        }
        let align = if size.is_power_of_two() {
            size.min(MAX_ALIGN)
        } else {
            UNIT
        };
        let top = self.get(AT_TOP);
        let start = top.next_multiple_of(align);
        if start
            .checked_add(size)
            .is_some_and(|end| end <= self.get(AT_BYTES))
        {
            self.set(AT_TOP, start + size);
            self.give(top, start);
            return Some(start);
        }
        // Large blocks are aligned at least as well as their parts.
        (index + 1..CLASSES).find_map(|larger| {
            let whole = block_size(larger)?;
            if whole < size || (size.is_power_of_two() && !whole.is_power_of_two()) {
                return None;
            }
            let offset = self.pop(larger)?;
            self.give(offset + size, offset + whole);
            Some(offset)
        })
    }

    /// Bytes in blocks which are in use.
    pub(super) fn used(&self) -> u64 {
        let _locked = self.lock();
        self.get(AT_USED)
    }

    /// Bytes which the arena has.
    pub(super) fn bytes(&self) -> u64 {
        self.get(AT_BYTES)
    }

    /// Offset, tag and shape of the root.
    pub(super) fn root(&self) -> (u64, u64, u64) {
        (self.get(AT_ROOT), self.get(AT_TAG), self.get(AT_SHAPE))
    }

    pub(super) fn set_root(&self, at: NonNull<u8>, tag: u64, shape: u64) {
        // A root without a size has no block, and its address means nothing.
        let offset = (at.as_ptr() as u64).saturating_sub(self.base.as_ptr() as u64);
        self.put_root(offset, tag, shape);
    }

    pub(super) fn put_root(&self, offset: u64, tag: u64, shape: u64) {
        self.set(AT_ROOT, offset);
        self.set(AT_TAG, tag);
        self.set(AT_SHAPE, shape);
    }

    fn allocate_block(&self, layout: Layout) -> Option<NonNull<[u8]>> {
        let (index, size) = Self::fit(layout)?;
        let _locked = self.lock();
        let offset = self.take(index, size)?;
        // A damaged list must not lead outside.
        if offset
            .checked_add(size)
            .is_none_or(|end| end > self.get(AT_TOP))
        {
            return None;
        }
        self.set(AT_USED, self.get(AT_USED).wrapping_add(size));
        // SAFETY: inside of the mapped memory.
        let start = unsafe { self.base.add(hvckpt_store::parts::size(offset)) };
        Some(NonNull::slice_from_raw_parts(start, layout.size()))
    }
}

// SAFETY: blocks are disjoint, inside of the arena, aligned as asked, and stay
// until they are freed; copies are the same allocator.
unsafe impl Allocator for Heap {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            let dangling = core::ptr::without_provenance_mut(layout.align());
            let dangling = NonNull::new(dangling).ok_or(AllocError)?;
            return Ok(NonNull::slice_from_raw_parts(dangling, 0));
        }
        self.allocate_block(layout).ok_or(AllocError)
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        let Some((index, size)) = Self::fit(layout) else {
            return;
        };
        if layout.size() == 0 {
            return;
        }
        let _locked = self.lock();
        let offset = (block.as_ptr() as u64).wrapping_sub(self.base.as_ptr() as u64);
        if self.plausible(offset) {
            self.push(index, offset);
            self.set(AT_USED, self.get(AT_USED).wrapping_sub(size));
        }
    }

    unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // Often the block has room.
        if old.size() > 0 && Self::fit(old) == Self::fit(new) && new.align() <= old.align() {
            return Ok(NonNull::slice_from_raw_parts(block, new.size()));
        }
        let fresh = self.allocate(new)?;
        // SAFETY: two blocks, the new one at least as large; the caller gave
        // the old one up.
        unsafe {
            core::ptr::copy_nonoverlapping(block.as_ptr(), fresh.as_ptr().cast(), old.size());
            self.deallocate(block, old);
        }
        Ok(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_fit_and_match_their_index() {
        let mut last = 0;
        for bytes in (1..5000).chain([1 << 20, (1 << 20) + 1, 1 << 40]) {
            let (index, size) = class(bytes);
            assert!(
                size >= bytes && size < bytes + bytes / 4 + UNIT,
                "{bytes} in {size}"
            );
            assert!(index >= last && index < CLASSES);
            last = index;
            assert_eq!(class(size), (index, size));
            assert_eq!(block_size(index), Some(size));
        }
    }
}
