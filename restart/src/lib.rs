// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unmodified programs, checkpointed to disk and restarted as an ordinary user.
//!
//! [`session::run`] starts a program below a supervisor, which is the first
//! process of a namespace of the program's own where the system allows it.
//! [`client::checkpoint`] asks that supervisor for a version: it stops all
//! threads by ptrace, lets the program fork a copy of itself, resumes it, and
//! writes the copy. [`session::restart`] makes a process of an image.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("whole processes are kept on x86-64 Linux only");

mod capture;
pub mod client;
mod contents;
mod files;
mod front;
pub mod image;
mod maps;
mod memory;
mod plan;
mod preflight;
mod rebind;
mod rebuild;
mod remote;
mod reopen;
mod restore;
mod rewind;
mod section;
pub mod session;
mod sockets;
mod stop;
mod sys;
mod unix_diag;

use std::io;

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program or the machine has what cannot be kept; nothing was changed.
    #[error("refused: {}", .0.join("; "))]
    Refused(Vec<String>),
    /// The program could not be started; the status is a shell's: 127 where
    /// there is none of that name, else 126.
    #[error("{why}")]
    NotStarted {
        /// 126 or 127.
        status: u8,
        /// Names the program and the cause.
        why: String,
    },
    /// The image is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// The system said no.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
}

impl Error {
    /// The exit status of a command which ends with this: 3 for a damaged
    /// image, 126 or 127 for a program that did not start, else 1.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Error::NotStarted { status, .. } => *status,
            Error::Damaged(_) => 3,
            Error::Refused(_) | Error::Io(..) => 1,
        }
    }

    fn refused(why: impl Into<String>) -> Self {
        Error::Refused(vec![why.into()])
    }
}

/// Names what was tried when the system says no.
trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| Error::Io(what(), error))
    }
}
