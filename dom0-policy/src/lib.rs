// SPDX-License-Identifier: MIT OR Apache-2.0
//! The policy daemon of hvckpt: runs in Dom0, knows which keys belong to
//! which domain, and hands out the one-time tokens with which applications
//! attach to the hypervisor.
//!
//! The binary `hvckpt-policy` is the product; this library exists so that
//! its parts can be tested together, and promises no stable interface.
//!
//! A request takes this way: [`server`] accepts and authenticates it,
//! [`policy`] decides (asking [`keys`] and [`hypervisor`]) and writes the
//! decision to [`audit`] before the answer leaves the daemon. Administrators
//! come in through [`admin`].
#![forbid(unsafe_code)]

pub mod admin;
pub mod audit;
pub mod cli;
pub mod daemon;
pub mod doctor;
pub mod files;
pub mod hypervisor;
pub mod keys;
pub mod limits;
pub mod policy;
pub mod privileges;
pub mod sandbox;
pub mod server;
pub mod units;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks although a thread may have panicked while holding the lock: all
/// state behind our locks is replaced as a whole, never left half-changed.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One line to standard error. Unlike `eprintln!` it does not panic when
/// nobody reads it.
pub(crate) fn log(message: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "hvckpt-policy: {message}");
}
