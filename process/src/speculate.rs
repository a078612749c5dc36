// SPDX-License-Identifier: MIT OR Apache-2.0
//! Speculation, for Rust and for C.

use crate::agent;
use crate::error::Error;
use crate::rollback;
use crate::state::{Reply, State};

/// An open speculation. Dropping it commits.
#[derive(Debug)]
#[must_use]
pub struct Speculation {
    rollbacks: u64,
}

impl Speculation {
    /// Takes a pre-image of the whole process. Returns again after each rollback, in the thread
    /// that called it: [`rollbacks`](Self::rollbacks) says how many there were.
    ///
    /// # Errors
    /// What stood in the way; the program runs on unharmed.
    ///
    /// # Safety
    /// A rollback undoes the memory of all threads, and nothing outside the process: what was
    /// written to files, pipes, sockets and shared memory stays. No code of the program may
    /// rely for soundness on such a thing and memory agreeing.
    pub unsafe fn begin() -> Result<Self, Error> {
        agent::init(0)?;
        // SAFETY: made for the agent.
        let rollbacks = unsafe { agent::ask(rollback::begin, 0) }?;
        Ok(Self { rollbacks })
    }

    /// How often this call of `begin` has been returned to.
    pub fn rollbacks(&self) -> u64 {
        self.rollbacks
    }

    /// What happened since `begin` stays. Nobody is stopped.
    ///
    /// # Errors
    /// [`Error::NotSpeculating`]
    pub fn commit(self) -> Result<(), Error> {
        core::mem::forget(self);
        // SAFETY: made for the agent.
        unsafe { agent::ask(rollback::commit, 0) }.map(drop)
    }

    /// Undoes it: `begin` returns once more. The speculation stays open.
    ///
    /// # Errors
    /// Returns only where that was refused; nothing has changed then.
    pub fn abort(&self) -> Error {
        // SAFETY: made for the agent; the caller of `begin` agreed to it.
        match unsafe { agent::ask(rollback::abort, 0) } {
            Err(e) => e,
            // An answer to a thread that the rollback knows nothing of cannot arrive.
            Ok(_) => Error::NotSpeculating,
        }
    }
}

impl Drop for Speculation {
    fn drop(&mut self) {
        // SAFETY: made for the agent.
        let _ = unsafe { agent::ask(rollback::commit, 0) };
    }
}

/// What became of a closure that was run speculatively.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It stays.
    Committed(T),
    /// It was undone, everything it and other threads did in the meantime with it.
    RolledBack,
}

/// Runs `f`; what it did is undone where it returns `None`.
///
/// # Errors
/// As [`Speculation::begin`] and [`Speculation::abort`].
///
/// # Safety
/// As [`Speculation::begin`].
pub unsafe fn speculate<T>(f: impl FnOnce() -> Option<T>) -> Result<Outcome<T>, Error> {
    // SAFETY: the caller's word.
    let open = unsafe { Speculation::begin() }?;
    if open.rollbacks() > 0 {
        open.commit()?;
        return Ok(Outcome::RolledBack);
    }
    match f() {
        Some(value) => open.commit().map(|()| Outcome::Committed(value)),
        None => Err(open.abort()),
    }
}

unsafe fn add_excluded(state: &'static State, argument: usize) -> Reply {
    // SAFETY: `exclude` waits, with these on its stack; the list is the agent's.
    let result = unsafe {
        let (start, length) = *(argument as *const (usize, usize));
        state.excluded.get().add(start, length)
    };
    (result.map(|()| 0), None)
}

/// From now on no rollback undoes what is in these pages; their mapping and protection are
/// still put back. For the rest of the process's life.
///
/// # Errors
/// [`Error::NotPages`]: `address` and `length` are not those of whole pages.
/// [`Error::TooManyExcluded`]. Nothing is excluded then.
///
/// # Safety
/// No code of the program relies for soundness on these pages agreeing with other memory after
/// a rollback; they hold no stack and no memory of an allocator.
pub unsafe fn exclude(address: usize, length: usize) -> Result<(), Error> {
    agent::init(0)?;
    let range = (address, length);
    // SAFETY: made for the agent, with an argument that lives until the answer.
    unsafe { agent::ask(add_excluded, (&raw const range) as usize) }.map(drop)
}
