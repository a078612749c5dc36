// SPDX-License-Identifier: MIT OR Apache-2.0
//! The interface of the hypervisor's part, field for field as
//! `xen-patch/include/public/cda.h` defines it.
//!
//! * [`gate`]: the operations of `int $0x84`, for processes of a guest;
//! * [`control`]: hypercall 55, for the privileged domain;
//! * [`mode`]: how pages are tracked, and [`ModeSet`], the one encoding of
//!   "which trackers" from a key's permission to the hypercall.
//!
//! Sizes and offsets are asserted when this is compiled, and the test
//! `header` has a C compiler evaluate the header and compares everything.
//! No `std`, no allocation: the same definitions serve programs without libc.

#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod layout;
pub mod control;
pub mod gate;
pub mod mode;

pub use layout::Layout;
pub use mode::{Mode, ModeSet};

/// Version of the interface which these definitions mirror.
pub const CDA_ABI_VERSION: u64 = 1;
/// Octets in a one-time token.
pub const CDA_TOKEN_BYTES: usize = 16;

structures! {
    /// Event counts of a session, or of a domain since it was created.
    cda_counters: 144 {
        /// Operations entered, restarts included.
        crossings: u64 = 0,
        /// Of which continued an earlier one.
        restarts: u64 = 8,
        /// First writes granted again by the hypervisor.
        faults_fixed: u64 = 16,
        /// Faults on a tracked page left to the guest kernel.
        faults_forwarded: u64 = 24,
        /// Faults on an entry that was writable already.
        faults_spurious: u64 = 32,
        /// Of `faults_fixed`: the hypervisor's own writes.
        faults_xen: u64 = 40,
        /// Tracked entries rewritten by the guest kernel.
        guest_updates: u64 = 48,
        /// Entries made read-only.
        write_protected: u64 = 56,
        /// Whole 2 MiB chunks walked.
        walks: u64 = 64,
        /// Times authority was stripped for a fork.
        forks: u64 = 72,
        /// TLB shootdowns asked for.
        flushes: u64 = 80,
        /// Ends and commits.
        cycles: u64 = 88,
        /// Writes found in D instead of a fault.
        watched: u64 = 96,
        /// Autoxen: pages left writable from now on.
        heated: u64 = 104,
        /// Autoxen: pages protected again.
        cooled: u64 = 112,
        /// Stores performed by the hypervisor.
        emulated: u64 = 120,
        /// Stores which could not be performed: a page entry instead.
        degraded: u64 = 128,
        /// Zero.
        reserved: u64 = 136,
    }
}

/// Constants of both halves under the names they have in C.
pub const CONSTANTS: &[(&str, u64)] = &[
    ("CDA_ABI_VERSION", CDA_ABI_VERSION),
    ("CDA_TOKEN_BYTES", CDA_TOKEN_BYTES as u64),
];

/// Size of a structure as its `size` field wants it.
#[must_use]
pub const fn size_field<T>() -> u32 {
    let size = size_of::<T>();
    assert!(size < 4096, "an ABI structure is below one page");
    #[allow(clippy::cast_possible_truncation)] // checked above
    {
        size as u32
    }
}
