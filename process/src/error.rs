// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong, why, and what to do.

use core::fmt;

/// Why a thread did not stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Holdout {
    /// It blocks the signal.
    Blocks,
    /// It sleeps in the kernel where no signal wakes it: in `vfork`, or on a dead file system.
    Sleeps,
    /// It had no turn on a CPU, or waits for a thread that was already stopped.
    Late,
}

/// What was refused. Nothing has changed then, and the program runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A thread did not stop in time.
    NotStopped {
        /// Its number.
        tid: i32,
        /// Why.
        why: Holdout,
    },
    /// There are more threads than the library can stop.
    TooManyThreads,
    /// The kernel refused something that is needed.
    Refused {
        /// What.
        what: &'static str,
        /// How.
        errno: i32,
    },
    /// `/proc` is not that of this process's pid namespace.
    ForeignProc,
    /// The main thread has ended, and others run on.
    LeaderEnded,
    /// A speculation is open already.
    Nested,
    /// None is open.
    NotSpeculating,
    /// The pre-image was killed.
    PreimageGone,
    /// What was mapped when the speculation began cannot be mapped again.
    MappingLost {
        /// Where.
        address: usize,
    },
    /// A thread which ended would have to go on with another number, and holds a mutex by
    /// its number.
    HoldsMutex {
        /// Its number when the speculation began.
        tid: i32,
    },
    /// Not the address and length of whole pages.
    NotPages {
        /// Where they begin.
        address: usize,
    },
    /// More ranges are excluded than can be.
    TooManyExcluded,
    /// `HVCKPT_SIGNAL`, or what `init` was called with, is no signal that can be used.
    BadSignal,
    /// The program has a handler for the signal.
    SignalInUse {
        /// Which.
        signal: i32,
    },
    /// The library was not initialised in this process.
    NotInitialised,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotStopped {
                tid,
                why: Holdout::Blocks,
            } => write!(
                f,
                "thread {tid} blocks the signal that stops it; take that signal out of its mask, \
                 or choose another one with HVCKPT_SIGNAL"
            ),
            Self::NotStopped {
                tid,
                why: Holdout::Sleeps,
            } => write!(
                f,
                "thread {tid} sleeps in the kernel and takes no signal; try again when its \
                 system call (see /proc/self/task/{tid}/wchan) is over"
            ),
            Self::NotStopped {
                tid,
                why: Holdout::Late,
            } => {
                write!(
                    f,
                    "thread {tid} did not stop in time; try again, or wait longer"
                )
            }
            Self::TooManyThreads => {
                f.write_str("more threads than can be stopped (4096); end some first")
            }
            Self::Refused { what, errno } => write!(
                f,
                "the kernel refused {what} (error {errno}); see its limits (ulimit -a) and free \
                 what is short"
            ),
            Self::ForeignProc => {
                f.write_str("/proc does not show this process's pid namespace; mount one that does")
            }
            Self::LeaderEnded => f.write_str(
                "the main thread has ended, which is not supported; let main() wait for the others",
            ),
            Self::Nested => f.write_str("a speculation is open already; commit or abort it first"),
            Self::NotSpeculating => f.write_str("no speculation is open; begin one first"),
            Self::PreimageGone => f.write_str(
                "the process that holds the pre-image was killed; commit, and see who kills \
                 processes (out of memory?)",
            ),
            Self::MappingLost { address } => write!(
                f,
                "what was mapped at {address:#x} was unmapped and cannot be mapped again: shared \
                 memory without a name, or a file that is gone; keep it mapped, or commit"
            ),
            Self::HoldsMutex { tid } => write!(
                f,
                "thread {tid} ended; it held a robust or priority-inheritance mutex, and cannot \
                 have its number back without CAP_CHECKPOINT_RESTORE (run in a user and pid \
                 namespace of one's own); commit"
            ),
            Self::NotPages { address } => write!(
                f,
                "what begins at {address:#x} is not whole pages of the program's; give an address \
                 and a length that are multiples of 4096"
            ),
            Self::TooManyExcluded => {
                f.write_str("256 ranges are excluded already; exclude fewer, larger ones")
            }
            Self::BadSignal => f.write_str(
                "no signal that can be used; set HVCKPT_SIGNAL to one from 34 to 64, or not at all",
            ),
            Self::SignalInUse { signal } => write!(
                f,
                "the program handles signal {signal} itself; choose another one, from 34 to 64, \
                 with HVCKPT_SIGNAL"
            ),
            Self::NotInitialised => {
                f.write_str("hvckpt was not initialised in this process; call init first")
            }
        }
    }
}

impl core::error::Error for Error {}
