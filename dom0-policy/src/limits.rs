// SPDX-License-Identifier: MIT OR Apache-2.0
//! How often anybody may ask.

use std::time::{Duration, Instant};

/// So many per second, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Sustained, per second.
    pub per_second: f64,
    /// At once after a pause.
    pub burst: u32,
}

/// A token bucket, full at first.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: Rate,
    level: f64,
    filled: Instant,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            level: rate.burst.into(),
            filled: now,
        }
    }

    /// Takes one.
    ///
    /// # Errors
    /// The time after which there will be one.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.level = (self.level + passed * self.rate.per_second).min(self.rate.burst.into());
        self.filled = now;
        if self.level >= 1.0 {
            self.level -= 1.0;
            return Ok(());
        }
        let wait = (1.0 - self.level) / self.rate.per_second;
        Err(Duration::try_from_secs_f64(wait)
            .unwrap_or(Duration::MAX)
            .min(HOUR))
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_empties_and_fills() {
        let start = Instant::now();
        let mut bucket = Bucket::new(
            Rate {
                per_second: 2.0,
                burst: 3,
            },
            start,
        );
        for _ in 0..3 {
            assert_eq!(bucket.take(start), Ok(()));
        }
        assert_eq!(bucket.take(start), Err(Duration::from_millis(500)));
        let later = start + Duration::from_millis(500);
        assert_eq!(bucket.take(later), Ok(()));
        assert!(bucket.take(later).is_err());
        // A long pause fills it to the brim and no further.
        let much_later = start + HOUR;
        assert_eq!(
            (0..9).filter(|_| bucket.take(much_later).is_ok()).count(),
            3
        );
    }

    #[test]
    fn bucket_without_refill_names_a_bounded_time() {
        let start = Instant::now();
        let mut bucket = Bucket::new(
            Rate {
                per_second: 0.0,
                burst: 0,
            },
            start,
        );
        assert_eq!(bucket.take(start), Err(HOUR));
    }
}
