// SPDX-License-Identifier: MIT OR Apache-2.0
//! Versions of memory on disk.
//!
//! A store is a directory of images: increments, to which every commit
//! appends a version, and base images, which compaction writes.  Each version
//! has a complete index of its pages, so that it is read without going
//! through the others.  The format is in `docs/spec-image.md`, the store
//! itself in the crate `hvckpt-store`.
//!
//! Most programs want a [`Durable`] region, which commits into a store:
//!
//! ```
//! use std::sync::atomic::Ordering::Relaxed;
//! use hvckpt::store::{Durability, Durable};
//! use hvckpt::{LockPolicy, TrackerKind};
//!
//! # let directory = std::env::temp_dir().join(format!("hvckpt-doc-{}", std::process::id()));
//! let open = || Durable::builder("counter")
//!     .pages(16)
//!     .tracker(TrackerKind::Pt)
//!     .lock(LockPolicy::IfAllowed)
//!     .open(&directory);
//!
//! let region = open()?;
//! let transaction = region.begin()?;
//! region.atomics_u64()[0].fetch_add(1, Relaxed);
//! let version = transaction.commit(Durability::Sync)?;
//! drop(region); // or a crash
//!
//! let region = open()?;
//! assert_eq!(region.version(), version);
//! assert_eq!(region.atomics_u64()[0].load(Relaxed), 1);
//! # drop(region);
//! # std::fs::remove_dir_all(&directory)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is promised
//! A commit which returned under [`Durability::Sync`] or
//! [`Durability::Group`] is there after any crash; one which failed is not,
//! unless the error was [`StoreError::Unsettled`], after which nobody knows
//! until the store was opened again.  Asynchronous commits are lost newest first, if at all.  What
//! was open is never there.  Bytes which are not what was written are found
//! when they are read ([`StoreError::Damaged`]), and by [`verify`].

pub use hvckpt_store::{
    Area, Compacted, Compression, Copied, CopyOptions, Damage, DamageKind, Durability, Examined,
    Image, KeyId, Page, PageWrite, Progress, Recovery, Store, StoreError, StoreKey, StoreKeyError,
    StoreMetrics, StoreOptions, Version, View, backend, copy, copy_with, examine, follow, verify,
};

pub use crate::durable::{Durable, DurableBuilder, DurableError, DurableTransaction, MapError};
