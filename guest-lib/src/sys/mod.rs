// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only way to the kernel and to the hypervisor.
//!
//! # Safety
//! With `tracker` and `ffi`, the only modules with `unsafe` code.  Functions
//! which run in a signal handler say so: they neither allocate, lock, log nor
//! touch `errno` or thread-local storage.

#![allow(unsafe_code)]

pub(crate) mod fork;
pub mod gate;
pub(crate) mod memory;
pub(crate) mod probe;
pub(crate) mod raw;
pub(crate) mod session;
pub(crate) mod signal;
pub(crate) mod soft_dirty;
pub(crate) mod uffd;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

const _: () = assert!(
    cfg!(target_endian = "little"),
    "pages are stored as they lie in memory"
);

/// The words of a page as bytes, where they are.
pub(crate) fn as_bytes(words: &[u64; PAGE_SIZE / 8]) -> &[u8; PAGE_SIZE] {
    // SAFETY: of the same size, and bytes need no alignment and have no value
    // which is invalid; the borrow is that of the words.
    unsafe { &*core::ptr::from_ref(words).cast() }
}
