// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stops a program with all its threads, and rolls it back in place.
//!
//! [`agent::init`] once, then [`stopped`] as often as needed. What runs while everybody is
//! stopped runs on the library's own thread, which has no thread-local storage: it must not
//! allocate, print, panic or call libc.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
// Numbers of the kernel's are cast as its interface has them.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::missing_safety_doc,
    reason = "see above"
)]

pub mod agent;
pub mod error;
mod exclude;
mod ffi;
mod frozen;
pub mod maps;
mod marks;
mod open;
mod pagemap;
mod pages;
mod park;
mod preimage;
pub mod raw;
mod remake;
mod renumber;
pub mod repair;
pub mod rollback;
mod room;
mod speculate;
pub mod state;
pub mod stop;
pub mod threads;
pub mod undo;

pub use error::{Error, Holdout};
pub use speculate::{Outcome, Speculation, exclude, speculate};
pub use state::Stopped;
pub use stop::Patience;
pub use threads::Thread;

struct Job<F> {
    patience: Patience,
    f: F,
}

unsafe fn run<F: FnOnce(&Stopped<'_>) -> u64>(
    state: &'static state::State,
    argument: usize,
) -> state::Reply {
    // SAFETY: `stopped` passes the address of such a job, which waits in a frame that is
    // stopped, but mapped; it was forgotten there.
    let Job { patience, f } = unsafe { (argument as *const Job<F>).read() };
    // SAFETY: this is the agent.
    match unsafe { stop::stop(state, patience) } {
        Ok(stopped) => (Ok(f(&stopped)), Some(stopped)),
        Err(e) => (Err(e), None),
    }
}

/// Stops every thread, the caller too, calls `f` on the library's own thread, and lets
/// everybody go on. What `f` returned is returned.
///
/// # Errors
/// [`Error::NotStopped`] names a thread that did not stop; nobody was harmed and `f` was not
/// called.
///
/// # Safety
/// `f` does not allocate, print, panic, or use libc or thread-local storage: a stopped thread
/// may hold any lock. Dropping what it captured must not either.
pub unsafe fn stopped<F>(patience: Patience, f: F) -> Result<u64, Error>
where
    F: FnOnce(&Stopped<'_>) -> u64 + Send,
{
    agent::init(0)?;
    let job = core::mem::ManuallyDrop::new(Job { patience, f });
    // SAFETY: the job lives until the answer is there; the caller vouches for `f`.
    unsafe { agent::ask(run::<F>, (&raw const job) as usize) }
}
