// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the agent knows of the open speculation.
#![allow(missing_docs, reason = "see where each is used")]

use crate::marks::Marks;
use crate::threads::Thread;

/// Threads that can be stopped.
pub const SLOTS: usize = 4096;

/// What rollbacks of this process came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Pages compared with the pre-image.
    pub compared: u64,
    /// Those which differed.
    pub wrong: u64,
    /// Threads which had ended and were made again.
    pub remade: u64,
    /// Those of them which could not have their number back.
    pub renumbered: u64,
}

/// The open speculation.
#[derive(Debug)]
pub struct Open {
    pub child: i32,
    pub rollbacks: u64,
    pub forks: u32,
    pub end_of_heap: usize,
    pub threads: usize,
    pub thread: [Thread; SLOTS],
    pub found: [bool; SLOTS],
    pub remade: [Option<u32>; SLOTS],
    pub marks: Marks,
    pub no_set_tid: bool,
    pub aborts: u64,
    pub counts: Counts,
}
