// SPDX-License-Identifier: MIT OR Apache-2.0
//! `malloc`, `realloc` and `free` in a durable region, and one root pointer:
//! the arena as C programs use it.
//!
//! A block has 16 bytes in front of it: its size, and a check word which
//! tells blocks from anything else.

use core::alloc::Layout;
use core::ptr::NonNull;

use allocator_api2::alloc::Allocator;

use super::heap::Heap;
use super::{ArenaError, HeapError};
use hvckpt_store::parts::size as format_size;

use crate::store::{Durability, Durable};

/// Tag of the root of such an arena.
pub(super) const TAG: u64 = u64::from_le_bytes(*b"hvckpt-C");
const HEAD: usize = 16;
const CHECK: u64 = 0x6b63_6f6c_625f_6576;

/// The arena in a durable region, which must outlive it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawArena {
    heap: Heap,
    base: NonNull<u8>,
    bytes: u64,
}

fn layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size.checked_add(HEAD)?, HEAD).ok()
}

impl RawArena {
    /// The arena in a region, and whether it was made just now.
    ///
    /// # Errors
    /// See [`ArenaError`].  The region is as it was.
    pub(crate) fn open(durable: &Durable) -> Result<(Self, bool), ArenaError> {
        let base = NonNull::new(durable.as_ptr()).ok_or(HeapError::Damaged)?;
        let bytes = durable.region().bytes() as u64;
        let transaction = durable.begin()?;
        // SAFETY: the region is mapped as long as `durable` lives; who calls
        // drops the arena first.
        let (heap, fresh) = unsafe { Heap::open(base, bytes) }?;
        if fresh {
            heap.put_root(0, TAG, 0);
        }
        let (_, found, shape) = heap.root();
        if (found, shape) != (TAG, 0) {
            return Err(ArenaError::OtherRoot {
                found,
                shape,
                expected: TAG,
                asked: 0,
            });
        }
        transaction.commit(if fresh {
            Durability::Sync
        } else {
            Durability::Memory
        })?;
        Ok((Self { heap, base, bytes }, fresh))
    }

    /// Offset of a block's data, if that is what the address is.
    fn block(&self, data: NonNull<u8>) -> Option<(NonNull<[u64; 2]>, usize)> {
        let offset = (data.as_ptr() as u64).wrapping_sub(self.base.as_ptr() as u64);
        let head = offset.checked_sub(HEAD as u64)?;
        if offset >= self.bytes || !offset.is_multiple_of(HEAD as u64) {
            return None;
        }
        // SAFETY: inside of the region, and aligned.
        let at = unsafe { self.base.add(format_size(head)) }.cast::<[u64; 2]>();
        // SAFETY: as above; who frees a block while another thread uses it
        // has lost already.
        let [size, check] = unsafe { at.read_volatile() };
        (check == size ^ offset ^ CHECK).then(|| (at, format_size(size)))
    }

    fn mark(&self, at: NonNull<[u64; 2]>, size: u64) -> NonNull<u8> {
        // SAFETY: a block of ours is at least as long as its head.
        let data = unsafe { at.cast::<u8>().add(HEAD) };
        let offset = data.as_ptr() as u64 - self.base.as_ptr() as u64;
        // SAFETY: as above, and aligned.
        unsafe { at.write_volatile([size, size ^ offset ^ CHECK]) };
        data
    }

    /// Memory for `size` bytes, aligned to 16; `None` if the arena is full.
    pub(crate) fn allocate(&self, size: usize) -> Option<NonNull<u8>> {
        let block = self.heap.allocate(layout(size)?).ok()?;
        Some(self.mark(block.cast(), size as u64))
    }

    /// Gives a block back; false if it is none, or was given back already.
    pub(crate) fn free(&self, data: NonNull<u8>) -> bool {
        let Some((at, size)) = self.block(data) else {
            return false;
        };
        let Some(layout) = layout(size) else {
            return false;
        };
        // SAFETY: the head is ours; the block was allocated with this layout,
        // and the caller gives it up.
        unsafe {
            at.write_volatile([0, 0]);
            self.heap.deallocate(at.cast(), layout);
        }
        true
    }

    /// Another size for a block, which may move.  Outer `None`: it is no
    /// block; inner: the arena is full, and the block is as it was.
    pub(crate) fn resize(&self, data: NonNull<u8>, size: usize) -> Option<Option<NonNull<u8>>> {
        let (at, old) = self.block(data)?;
        let Some((now, new)) = layout(old).zip(layout(size)) else {
            return Some(None);
        };
        if Heap::fit(now) == Heap::fit(new) {
            return Some(Some(self.mark(at, size as u64)));
        }
        let Some(fresh) = self.allocate(size) else {
            return Some(None);
        };
        // SAFETY: two blocks, both at least as long as the shorter one.
        unsafe { core::ptr::copy_nonoverlapping(data.as_ptr(), fresh.as_ptr(), old.min(size)) };
        self.free(data);
        Some(Some(fresh))
    }

    /// The root: what was set last in what was committed.
    pub(crate) fn root(&self) -> *mut u8 {
        match self.heap.root().0 {
            0 => core::ptr::null_mut(),
            // SAFETY: `set_root` lets nothing else in.
            offset => unsafe { self.base.add(format_size(offset)) }.as_ptr(),
        }
    }

    /// Sets the root to a block, or to nothing; false if it is no block.
    pub(crate) fn set_root(&self, data: Option<NonNull<u8>>) -> bool {
        let offset = match data {
            None => 0,
            Some(data) if self.block(data).is_some() => {
                data.as_ptr() as u64 - self.base.as_ptr() as u64
            }
            Some(_) => return false,
        };
        self.heap.put_root(offset, TAG, 0);
        true
    }

    /// Bytes in use, as blocks.
    pub(crate) fn used(&self) -> u64 {
        self.heap.used()
    }
}
