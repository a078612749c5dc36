// SPDX-License-Identifier: MIT OR Apache-2.0
//! Learn which pages a process dirtied: declare memory, change it inside
//! transactions, read the list.
//!
//! The tracking itself is done by a [tracker](TrackerKind): the hypervisor, if
//! this is a guest of a Xen with the hvckpt patch and the administrator gave a
//! key, or the kernel, or this library.  The program does not change with the
//! tracker, and is told which one it got.
//!
//! ```
//! use std::sync::atomic::Ordering::Relaxed;
//! use hvckpt_track::{LockPolicy, TrackerKind};
//!
//! let region = hvckpt_track::register_cda()
//!     .pages(16)
//!     .tracker(TrackerKind::Pt)
//!     .lock(LockPolicy::IfAllowed)
//!     .register()?;
//! let transaction = region.begin()?;
//! region.atomics_u64()[512].fetch_add(1, Relaxed); // second page
//! assert_eq!(transaction.commit()?.to_vec(), [1]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//! `policy` (default): trackers of the hypervisor ask the policy daemon for
//! their token, over TLS.  Without it there is no TLS in the program, and
//! [`Attach::token`] takes a token which was obtained elsewhere; trackers of the
//! kernel need none.

#![deny(unsafe_code)]

mod attach;
mod dirty;
pub mod doctor;
mod region;
mod tracker;
mod txn;

pub use attach::{Attach, AttachError, ENV_KEY, ENV_POLICY};
pub use dirty::{DirtyPages, Iter, Runs};
pub use hvckpt_sys::gate::GateError;
pub use hvckpt_sys::memory::{LockPolicy, MemoryError, RawPages};
pub use hvckpt_sys::session::SessionError;
pub use hvckpt_sys::signal::HandlerReplaced;
pub use hvckpt_sys::soft_dirty::SoftDirtyError;
pub use hvckpt_sys::uffd::UffdError;
pub use hvckpt_sys::{PAGE_SIZE, abi, explain};
pub use region::{Attempt, MAX_PAGES, Region, RegionBuilder, RegionError};
pub use tracker::{
    Count, Counters, Coverage, CycleError, Limits, Log, SimGate, TrackError, Tracker, TrackerKind,
    UnknownTracker, Written,
};
pub use txn::Transaction;

/// Begins the description of a critical data area.
pub fn register_cda() -> RegionBuilder {
    RegionBuilder::default()
}
