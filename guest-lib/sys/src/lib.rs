// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only way of hvckpt's libraries to the kernel and to the hypervisor.
//!
//! What is here follows the needs of those libraries; applications want the
//! crate `hvckpt`, or `hvckpt-track`.
//!
//! # Safety
//! Functions which run in a signal handler say so: they neither allocate,
//! lock, log nor touch `errno` or thread-local storage.

#![deny(unsafe_code)]

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("hvckpt runs on 64-bit x86 Linux");

pub mod abi;
mod explain;
#[allow(unsafe_code)]
pub mod fork;
#[allow(unsafe_code)]
pub mod gate;
#[allow(unsafe_code)]
pub mod memory;
#[allow(unsafe_code)]
mod probe;
#[allow(unsafe_code)]
pub mod raw;
#[allow(unsafe_code)]
pub mod session;
#[allow(unsafe_code)]
pub mod signal;
#[allow(unsafe_code)]
pub mod soft_dirty;
#[allow(unsafe_code)]
pub mod uffd;

pub use explain::explain;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;
