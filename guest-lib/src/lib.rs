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

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("hvckpt runs on 64-bit x86 Linux");

pub mod arena;
mod attach;
pub mod backup;
mod dirty;
pub mod doctor;
mod durable;
mod error;
mod ffi;
pub mod metrics;
mod region;
pub mod store;
mod tracker;
mod txn;

pub use attach::{Attach, AttachError, ENV_KEY, ENV_POLICY};
pub use dirty::{DirtyPages, Iter, Runs};
pub use error::Error;
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

/// The way into the hypervisor, for those who go it without the trackers.
pub mod sys {
    pub use hvckpt_sys::{PAGE_SIZE, gate};
}

/// Begins the description of a critical data area.
pub fn register_cda() -> RegionBuilder {
    RegionBuilder::default()
}
