// SPDX-License-Identifier: MIT OR Apache-2.0
//! Critical data areas: declare memory, change it inside transactions, learn
//! which pages were dirtied.
//!
//! The tracking itself is done by a [tracker](TrackerKind): the hypervisor, if
//! this is a guest of a Xen with the hvckpt patch and the administrator gave a
//! key, or the kernel, or this library.  The program does not change with the
//! tracker, and is told which one it got.
//!
//! ```
//! use std::sync::atomic::Ordering::Relaxed;
//! use hvckpt::{LockPolicy, TrackerKind};
//!
//! let region = hvckpt::register_cda()
//!     .pages(16)
//!     .trackers([TrackerKind::PtXen, TrackerKind::PagemapScan, TrackerKind::Pt])
//!     .lock(LockPolicy::IfAllowed)
//!     .register()?;
//! println!("tracked by {}", region.tracker());
//!
//! let transaction = region.begin()?;
//! region.atomics_u64()[512].fetch_add(1, Relaxed); // second page
//! for page in &transaction.commit()? {
//!     println!("page {page} is dirty");
//! }
//! # Ok::<(), hvckpt::Error>(())
//! ```
//!
//! # What is promised
//! Every page whose content changed while a transaction was open is in its
//! list (a write which races with the commit: in the next one).  Lists may
//! name more pages.  The exceptions of each tracker are in
//! [`TrackerKind::limits`].

#![deny(unsafe_code)]

pub mod arena;
pub mod backup;
mod durable;
mod error;
mod ffi;
pub mod metrics;
pub mod store;

pub use error::Error;
pub use hvckpt_track::{
    Attach, AttachError, Attempt, Count, Counters, Coverage, CycleError, DirtyPages, ENV_KEY,
    ENV_POLICY, GateError, HandlerReplaced, Iter, Limits, LockPolicy, Log, MAX_PAGES, MemoryError,
    PAGE_SIZE, RawPages, Region, RegionBuilder, RegionError, Runs, SessionError, SimGate,
    SoftDirtyError, TrackError, Tracker, TrackerKind, Transaction, UffdError, UnknownTracker,
    Written, abi, doctor, explain, register_cda,
};

/// The way into the hypervisor, for those who go it without the trackers.
pub mod sys {
    pub use hvckpt_sys::{PAGE_SIZE, gate};
}
