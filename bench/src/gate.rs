// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way into the hypervisor, by itself.

use std::hint::black_box;
use std::time::Instant;

use hvckpt::abi;
use hvckpt::sys::gate;

use crate::clock::{between, median, reading};

/// Nanoseconds of one call, on average.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Outcome {
    /// Of an empty round trip through the gate.
    pub gate_ns: f64,
    /// Of a system call which does nothing, the same way.
    pub syscall_ns: f64,
}

/// Measures `calls` round trips.
///
/// # Errors
/// There is no gate.
pub fn run(calls: u32) -> Result<Outcome, String> {
    hvckpt::Attach::new()
        .gate()
        .map_err(|error| hvckpt::explain(&error))?;
    let calls = calls.max(1);
    let crossing = || {
        // SAFETY: there is a gate, and this operation takes no arguments.
        black_box(unsafe { gate::int84(abi::CDA_OP_VERSION, [0; 5]) });
    };
    let syscall = || {
        // SAFETY: no arguments, no effect.
        black_box(unsafe { libc::syscall(libc::SYS_getppid) });
    };
    Ok(Outcome {
        gate_ns: average(calls, crossing),
        syscall_ns: average(calls, syscall),
    })
}

/// In batches, of which a timer's tick spoils a few.
fn average(calls: u32, call: impl Fn()) -> f64 {
    const BATCH: u32 = 100;
    let clock = reading();
    let batch = |_| {
        let start = Instant::now();
        (0..BATCH).for_each(|_| call());
        between(start, Instant::now(), clock)
    };
    (0..BATCH).for_each(|_| call());
    let batches: Vec<u64> = (0..calls.div_ceil(BATCH)).map(batch).collect();
    median(&batches) as f64 / f64::from(BATCH)
}
