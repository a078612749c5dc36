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
