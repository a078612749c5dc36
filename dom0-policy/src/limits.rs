//! How much anybody may ask for: rates and connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::lock;

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

/// Counts connections that are open, all together and from each address.
#[derive(Debug, Clone)]
pub struct Gate {
    total: usize,
    per_peer: usize,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Gate {
    /// Lets in at most `total`, and `per_peer` from one address.
    #[must_use]
    pub fn new(total: usize, per_peer: usize) -> Self {
        Self {
            total,
            per_peer,
            open: Arc::default(),
        }
    }

    /// One more, if it may; it counts until the pass is dropped.
    #[must_use]
    pub fn enter(&self, peer: IpAddr) -> Option<Pass> {
        let mut open = lock(&self.open);
        // Same peer whether it came by IPv4 or by IPv4 inside IPv6.
        let peer = peer.to_canonical();
        let mine = open.get(&peer).copied().unwrap_or(0);
        if mine >= self.per_peer || open.values().sum::<usize>() >= self.total {
            return None;
        }
        open.insert(peer, mine + 1);
        Some(Pass {
            gate: self.clone(),
            peer,
        })
    }

    /// How many are open.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.open).values().sum()
    }
}

/// One connection that is open.
#[derive(Debug)]
pub struct Pass {
    gate: Gate,
    peer: IpAddr,
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut open = lock(&self.gate.open);
        match open.get_mut(&self.peer) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(&self.peer);
            }
        }
    }
}

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

    #[test]
    fn gate_counts_per_peer_and_in_total() {
        let gate = Gate::new(3, 2);
        let (a, b, c): (IpAddr, IpAddr, IpAddr) = (
            "10.0.0.1".parse().unwrap(),
            "10.0.0.2".parse().unwrap(),
            "::ffff:10.0.0.1".parse().unwrap(),
        );
        let first = gate.enter(a).unwrap();
        let _second = gate.enter(c).unwrap();
        assert!(gate.enter(a).is_none(), "same peer");
        let _third = gate.enter(b).unwrap();
        assert!(gate.enter(b).is_none(), "total");
        drop(first);
        assert!(gate.enter(b).is_some());
        assert_eq!(gate.count(), 2);
    }
}
