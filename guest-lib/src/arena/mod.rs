// SPDX-License-Identifier: MIT OR Apache-2.0
//! Data structures inside a durable region.
//!
//! An [`Arena`] is a durable region with an allocator and a typed root.  The
//! allocator works with every collection which takes one in the manner of
//! `allocator-api2` (its own `Vec` and `Box`, `hashbrown`), and keeps its own
//! data in the region too: an abort, or a recovery, brings back both.
//!
//! ```
//! use allocator_api2::vec::Vec;
//! use hvckpt::arena::{Arena, ArenaRoot, Heap};
//! use hvckpt::store::{Durability, Durable};
//! use hvckpt::{LockPolicy, TrackerKind};
//!
//! struct Log {
//!     lines: Vec<u64, Heap>,
//! }
//!
//! // SAFETY: a vector of numbers is fine, see `ArenaRoot`.
//! unsafe impl ArenaRoot for Log {
//!     const TAG: u64 = 1;
//! }
//!
//! # let directory = std::env::temp_dir().join(format!("hvckpt-doc-arena-{}", std::process::id()));
//! let region = Durable::builder("log")
//!     .pages(64)
//!     .tracker(TrackerKind::Pt)
//!     .lock(LockPolicy::IfAllowed)
//!     .open(&directory)?;
//! let arena = Arena::open(region, |heap| Log { lines: Vec::new_in(heap) })?;
//! arena.update(Durability::Sync, |log| {
//!     log.lines.push(7);
//!     Ok::<_, std::convert::Infallible>(())
//! })?;
//! let refused = arena.update(Durability::Sync, |log| {
//!     log.lines.clear();
//!     Err::<(), _>("no")
//! });
//! assert!(refused.is_err());
//! assert_eq!(arena.read(|log| log.lines[0]), 7);
//! # drop(arena);
//! # std::fs::remove_dir_all(&directory)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![allow(unsafe_code)]

mod heap;
mod raw;

use core::alloc::Layout;
use core::marker::PhantomData;
use core::ptr::NonNull;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use allocator_api2::alloc::Allocator;

use crate::store::{Durability, Durable, DurableError, Store};
use hvckpt_track::TrackerKind;

pub use heap::{Heap, HeapError};
pub(crate) use raw::RawArena;

/// A type which can be the root of an arena.
///
/// # Safety
/// Values of the type come back in another process, at the same address, as
/// the bytes which they were.  So
/// * whatever they refer to is in the arena: allocated with the [`Heap`] they
///   were made with.  Not with the global allocator; no reference to a static,
///   no function pointer, no trait object, no thread, lock, file or time;
/// * a map's hash builder has its whole state in itself, as that of `std` has,
///   and the default one of `hashbrown` has not: its seed is the process's;
/// * a `hashbrown` map which never held anything points to a static: make it
///   with a capacity, and do not shrink it to nothing;
/// * [`Self::TAG`] changes whenever the layout does, of the type and of what
///   it is made of: with its definition, the version of a collection's crate,
///   or the compiler;
/// * nothing allocated with the heap, and no copy of the heap, is kept outside
///   of the root when an update ends: an abort would pull it away.
pub unsafe trait ArenaRoot: Sized {
    /// Tells types, and versions of them, apart.
    const TAG: u64;
}

/// Why there is no arena.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArenaError {
    /// The region.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// What is in it.
    #[error(transparent)]
    Heap(#[from] HeapError),
    /// The root is of another type, or of another version of it.
    #[error(
        "the arena was made for another type: it holds {}, the program asks for {}; open it with the program which made it, or change ArenaRoot::TAG and convert",
        root(*.found, *.shape), root(*.expected, *.asked)
    )]
    OtherRoot {
        /// Tag of the root.
        found: u64,
        /// Its size and alignment.
        shape: u64,
        /// Tag of the type asked for.
        expected: u64,
        /// Its size and alignment.
        asked: u64,
    },
}

/// Why an update was not made.  Everything is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError<E> {
    /// The update itself said so.
    #[error("the update was given up: {0}")]
    Refused(E),
    /// It could not begin or be committed.
    #[error(transparent)]
    Durable(#[from] DurableError),
}

/// A durable region with an allocator and a root of type `T`.
///
/// Dropping it does not drop the root: it stays in the region.
pub struct Arena<T> {
    heap: Heap,
    root: NonNull<T>,
    one: Mutex<()>,
    durable: Durable,
    _root: PhantomData<T>,
}

// SAFETY: the root is reached through `one` only, one thread at a time.
unsafe impl<T: Send> Send for Arena<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Arena<T> {}

impl<T> fmt::Debug for Arena<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("heap", &self.heap)
            .field("durable", &self.durable)
            .finish_non_exhaustive()
    }
}

/// A root, for messages: what [`shape`] packs, and a tag.
fn root(tag: u64, shape: u64) -> String {
    if (tag, shape) == (raw::TAG, 0) {
        return "the root pointer of a C program".to_owned();
    }
    let (bytes, align) = (shape >> 16, shape & 0xffff);
    format!("a root with tag {tag} of {bytes} bytes, aligned to {align}")
}

/// Size and alignment in one word.
fn shape<T>() -> u64 {
    (size_of::<T>() as u64) << 16 | align_of::<T>() as u64
}

impl<T: ArenaRoot> Arena<T> {
    /// The arena in a region.  If the region is empty, one is made, and
    /// `first` makes its root.
    ///
    /// # Errors
    /// See [`ArenaError`].  The region is as it was.
    pub fn open(durable: Durable, first: impl FnOnce(Heap) -> T) -> Result<Self, ArenaError> {
        let base = NonNull::new(durable.as_ptr()).ok_or(HeapError::Damaged)?;
        let bytes = durable.region().bytes() as u64;
        let transaction = durable.begin()?;
        // SAFETY: the region is mapped as long as `durable` lives, which the
        // arena keeps; types of roots promise that copies of the heap do not
        // leave the arena.
        let (heap, fresh) = unsafe { Heap::open(base, bytes) }?;
        if fresh {
            let block = heap
                .allocate(Layout::new::<T>())
                .map_err(|_| HeapError::TooSmall)?;
            let root = block.cast::<T>();
            // SAFETY: a fresh block of the layout of `T`.
            unsafe { root.write(first(heap)) };
            heap.set_root(block.cast(), T::TAG, shape::<T>());
        }
        let (offset, found, size) = heap.root();
        if (found, size) != (T::TAG, shape::<T>()) {
            let (expected, asked) = (T::TAG, shape::<T>());
            return Err(ArenaError::OtherRoot {
                found,
                shape: size,
                expected,
                asked,
            });
        }
        let end = offset.checked_add(size_of::<T>() as u64);
        let aligned = offset % align_of::<T>().max(1) as u64 == 0;
        if size_of::<T>() > 0 && (end.is_none_or(|end| end > bytes) || !aligned || offset == 0) {
            return Err(HeapError::Damaged.into());
        }
        let root = if size_of::<T>() == 0 {
            NonNull::dangling()
        } else {
            // SAFETY: inside of the region.
            unsafe { base.add(hvckpt_store::parts::size(offset)).cast() }
        };
        transaction.commit(if fresh {
            Durability::Sync
        } else {
            Durability::Memory
        })?;
        Ok(Self {
            heap,
            root,
            one: Mutex::new(()),
            durable,
            _root: PhantomData,
        })
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // Who panicked has aborted.
        self.one.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the root; one thread at a time.  Does not wait for the disk or
    /// for the backup, so what it reads may not be durable yet: if that
    /// matters, [`Store::wait`] for [`Self::version`] before passing it on.
    pub fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        let _one = self.lock();
        self.durable.settle();
        // SAFETY: valid as its type promises, and nobody changes it now.
        read(unsafe { self.root.as_ref() })
    }

    /// Changes the root, and what it holds, as one transaction.  If `update`
    /// fails or panics, nothing happened.  Returns the version with what
    /// `update` returned.
    ///
    /// Other threads go on while this one waits for the disk or for the
    /// backup, and share its sync.  An update which is refused takes those with
    /// it which were built on it.
    ///
    /// # Errors
    /// See [`UpdateError`].
    pub fn update<R, E>(
        &self,
        durability: Durability,
        update: impl FnOnce(&mut T) -> Result<R, E>,
    ) -> Result<(u64, R), UpdateError<E>> {
        self.durable.admit(durability)?;
        let (published, result) = {
            let _one = self.lock();
            let transaction = self.durable.begin()?;
            let mut root = self.root;
            // SAFETY: valid as its type promises, and nobody else has it now.
            let result = update(unsafe { root.as_mut() }).map_err(UpdateError::Refused)?;
            (transaction.publish(durability)?, result)
        };
        // Others read and update meanwhile.
        let waited = self.durable.wait(&published).inspect_err(|_| {
            let _one = self.lock();
            self.durable.settle();
        });
        Ok((waited?, result))
    }

    /// The allocator of what is in the arena.
    ///
    /// # Safety
    /// What is allocated with it must be part of the root before the update
    /// ends in which it was allocated, or be freed; see [`ArenaRoot`].
    #[must_use]
    pub unsafe fn heap(&self) -> Heap {
        self.heap
    }

    /// Bytes in use, as blocks.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.heap.used()
    }

    /// Bytes which the arena has.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.heap.bytes()
    }

    /// The version which the last update made, or which was recovered.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.durable.version()
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        self.durable.store()
    }

    /// The tracker of the region.
    #[must_use]
    pub fn tracker(&self) -> TrackerKind {
        self.durable.region().tracker()
    }
}
