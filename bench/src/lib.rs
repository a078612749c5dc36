// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loads for trackers: what `scripts/bench` runs in a guest.
//!
//! * a microbenchmark with the paper's parameters: size of the critical data
//!   area, writes per page, pages per transaction, number of transactions;
//! * the data structures of its Table 2, inside a critical data area,
//!   with exact counts of their writes and pages;
//! * a program which knows nothing of trackers: `hashbrown`, in an arena.

#![allow(clippy::cast_precision_loss)] // counts become averages

pub mod cases;
pub mod clock;
pub mod counts;
pub mod exact;
pub mod experiment;
pub mod gate;
pub mod memory;
pub mod micro;
pub mod pool;
pub mod processed;
pub mod program;
pub mod structures;
pub mod trackers;
pub mod workload;
