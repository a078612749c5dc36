// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time, which under a counting emulator is instructions: one nanosecond each.

use std::hint::black_box;
use std::time::Instant;

/// Nanoseconds from one reading to a later one, less what a reading costs.
#[must_use]
pub fn between(start: Instant, end: Instant, reading: u64) -> u64 {
    let ns = end.saturating_duration_since(start).as_nanos();
    u64::try_from(ns)
        .unwrap_or(u64::MAX)
        .saturating_sub(reading)
}

/// What reading the clock costs, in nanoseconds, once nothing interrupts.
#[must_use]
pub fn reading() -> u64 {
    let once = |_| between(black_box(Instant::now()), black_box(Instant::now()), 0);
    median(&(0..101).map(once).collect::<Vec<_>>())
}

/// The middle of samples: what no timer interrupted; 0 of none.
#[must_use]
pub fn median(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// How far apart the quarters of samples lie: a median of n of them is known
/// to about this over the square root of n.
#[must_use]
pub fn spread(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    let at = |part: usize| sorted.get(sorted.len() * part / 4).copied();
    at(3).unwrap_or_default() - at(1).unwrap_or_default()
}

/// The average of samples; 0 of none.
#[must_use]
pub fn mean(samples: &[u64]) -> f64 {
    samples.iter().sum::<u64>() as f64 / samples.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_leaves_out_what_was_interrupted() {
        assert_eq!(spread(&[]), 0);
        assert_eq!(spread(&[7]), 0);
        assert_eq!(spread(&[5, 5, 5, 5, 5, 5, 5, 900]), 0);
        assert_eq!(spread(&[4, 1, 3, 2]), 2);
    }
}
